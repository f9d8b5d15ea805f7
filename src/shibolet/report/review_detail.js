// What the page of a review shows of one utterance, with its buttons: all of them have keys too.
function reviewDetail(page) {
  const { state, sound, answers, isBlind, correctionShown, spansNear, answer, accept, decide } = page;
  const { make, speech, evidence, strip } = page.parts, { direction, language, suspects } = page;
  const get = (id) => document.getElementById(id), detail = get("detail");
  const mine = (row) => answers.mine(row), drafts = new Map(); // utterance -> a text that is typed and not saved
  const button = (text, key, onclick, properties = {}) =>
    make("button", { type: "button", onclick, ...properties }, text, make("kbd", {}, key));

  // Another utterance is opened and has to be shown: a text that is being typed waits in `drafts`, a note is given.
  function putAside(row) {
    const area = detail.querySelector("textarea");
    if (area && area.dataset.id !== row?.id) area.remove();
    detail.querySelector("#note:focus")?.blur(); // in Safari a click on a button takes no focus
  }

  function showDetail(row) {
    if (detail.querySelector("textarea, #note:focus")) return; // somebody is typing
    if (!row) {
      detail.replaceChildren(make("p", { className: "quiet" }, "Nothing is listed."));
      return;
    }
    const verdictOn = row.low
      ? suspects[row.suspect]?.[1] ?? "Something is wrong with this one." : "Nothing speaks against this one.";
    const place = isBlind() ? [`${state.list.place + 1} of ${state.list.rows.length}`] : [
      row.domain, row.recording && `recording ${row.recording}`, row.speaker && `speaker ${row.speaker}`,
      row.rest && "heard after the sample",
    ];
    detail.replaceChildren(
      make("h2", {}, isBlind() ? "Is the text what is said?" : verdictOn),
      make("p", { className: "meta" }, [...place, `${row.seconds.toFixed(1)} s`].filter(Boolean).join(" \u00b7 "), " \u00b7 ",
        make("code", {}, row.id)),
      waveOf(row), make("div", { id: "answers" }), controls(row),
      ...(isBlind() || !row.why ? [] : evidence(row)));
    refreshAnswers();
  }

  function waveOf(row) {
    const [start, end] = sound.spanOf(row, state.span), sounds = state.loaded && !state.loaded.error;
    const within = { words: [], times: [] };
    (row.words ?? []).forEach((word, i) => {
      const [from, to] = [row.times[2 * i], row.times[2 * i + 1]];
      if (from === undefined || from < start || from >= end) return;
      within.words.push(word);
      within.times.push(from - start, to - start);
    });
    const length = sounds ? state.loaded.samples.length / state.loaded.rate : end - start;
    const made = strip(within, length, sounds ? sound.peaks(state.loaded) : [], sound.play, start);
    state.move = made.move;
    if (sounds && state.hasSpectrogram) {
      const canvas = make("canvas", { className: "spectrogram", role: "img", "aria-label": "Spectrogram, 0 to 8 kHz" });
      drawSpectrogram(canvas, state.loaded, matchMedia("(prefers-color-scheme: dark)").matches);
      made.frame.firstChild.prepend(canvas);
    }
    const scrolled = made.frame;
    scrolled.tabIndex = 0;
    scrolled.setAttribute("role", "group");
    scrolled.setAttribute("aria-label", "Sound and words");
    if (state.loaded?.error) return make("div", {}, scrolled, make("p", { className: "quiet" }, `No sound: ${state.loaded.error.message}`));
    return scrolled;
  }

  function controls(row) {
    const spans = spansNear(row), place = spans.findIndex((one) => one.row === row && one.span === state.span);
    const jump = spans.length > 1 ? [
      button("Span before", "[", () => page.jumpBy(-1), { disabled: place === 0 }),
      make("span", { className: "quiet" }, `span ${place + 1} of ${spans.length}`),
      button("Next span", "]", () => page.jumpBy(1), { disabled: place === spans.length - 1 }),
    ] : [];
    return make("div", { className: "verdicts" },
      button("Play", "space", sound.toggle, { className: "play" }),
      button("Slower", "-", () => page.speedBy(-1)), make("output", { id: "speed" }, `${sound.rate}\u00d7`),
      button("Faster", "+", () => page.speedBy(1)),
      button("Loop", "l", page.loop, { id: "loop", "aria-pressed": sound.isLooped }),
      button("Spectrogram", "g", page.spectrogram, { "aria-pressed": state.hasSpectrogram }), ...jump);
  }

  function refreshAnswers() {
    const row = state.list?.row, box = get("answers");
    if (!row || !box || box.querySelector("textarea, #note:focus")) return;
    const own = mine(row), correction = correctionShown(row);
    const focused = box.contains(document.activeElement) ? document.activeElement.dataset.do : null;
    const verdict = (value, key) => make("button", {
      type: "button", "data-do": value, "data-answer": value, "aria-pressed": own.verdict === value, onclick: () => answer(value),
    }, value, make("kbd", {}, key));
    const text = correction ? [
      speech(make("del", {}, row.text || "\u2013")), speech(make("ins", {}, correction.corrected)),
      make("p", { className: "quiet" }, correction.accepted
        ? `${correction.by} corrected this text; it is accepted and trains in place of the other. `
        : `${correction.by} proposes this text. `,
        make("button", { type: "button", "data-do": "accept", onclick: accept },
          correction.accepted ? "Take back" : "Accept", make("kbd", {}, "a"))),
    ] : [speech(row.text || "\u2013")];
    const others = isBlind() && !own.verdict ? [] : answers.others(row).filter((one) => one.verdict || one.note);
    box.replaceChildren(
      make("div", { className: "verdicts", role: "group", "aria-label": "Verdict" },
        verdict("good", "1"), verdict("bad", "2"), verdict("unsure", "3"),
        make("button", { type: "button", "data-do": "edit", onclick: edit }, "Correct the text", make("kbd", {}, "e")),
        answers.isDisputed(row) && own.verdict
          ? make("button", { type: "button", "data-do": "decide", onclick: decide }, "Mine decides", make("kbd", {}, "d")) : null),
      ...text,
      make("p", {}, make("label", {}, "Note ", make("kbd", {}, "n"), " ", noteOf(row, own))),
      others.length ? make("ul", { className: "others" }, ...others.map((one) => make("li", {},
        make("strong", {}, one.by), " ", one.verdict ? make("span", { className: `answer ${one.verdict}` }, one.verdict) : "",
        one.decides ? " decides" : "", one.note ? ` ${one.note}` : ""))) : "");
    if (focused) box.querySelector(`[data-do=${focused}]`)?.focus();
  }

  function noteOf(row, own) {
    const note = make("input", { id: "note", type: "text", maxLength: 2000, value: own.note, autocomplete: "off" });
    note.onchange = () => {
      if (note.value.trim() !== mine(row).note) answers.change(row, { note: note.value.trim() });
    };
    return note;
  }

  const spaced = (text) => text.trim().replace(/\s+/g, " ");

  function edit() {
    const row = state.list.row, box = get("answers");
    if (!row || !box) return;
    const area = make("textarea", {
      dir: direction, lang: language, rows: 3, maxLength: 500000, "aria-label": "What is said",
      "data-id": row.id, value: drafts.get(row.id) ?? correctionShown(row)?.corrected ?? row.text,
      oninput: () => drafts.set(row.id, area.value),
    });
    const close = () => {
      drafts.delete(row.id);
      area.remove();
      showDetail(row);
      get("list").focus({ preventScroll: true });
    };
    const save = (accepted) => {
      const text = spaced(area.value);
      const isChanged = text && text !== spaced(row.text);
      close();
      answers.change(row, { corrected: isChanged ? text : null, accepted: Boolean(isChanged && accepted) });
    };
    area.onkeydown = (event) => {
      if (event.key === "Escape") close();
      else if (event.key === "Enter") save(event.ctrlKey || event.metaKey);
      else return;
      event.preventDefault();
      event.stopPropagation();
    };
    box.replaceChildren(area, make("div", { className: "verdicts" },
      button("Save and accept", "Ctrl Enter", () => save(true)), button("Propose", "Enter", () => save(false)),
      button("Cancel", "Esc", close)));
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  return { showDetail, refreshAnswers, edit, putAside };
}
