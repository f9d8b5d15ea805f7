"use strict";
// The audit's page: lists, filters and sorts utterances, plays them, and keeps a person's verdicts in the browser.
// Text of the data reaches the page as text nodes only.
{
  const CHUNK = 80; // rows put into the table at a time
  const NO_ROOM = "No sound on this page: it has room for the worst and for the random draw only.";
  const get = (id) => document.getElementById(id);
  const { rows, suspects, reasons, answers: known, file, player_s: playerS } = JSON.parse(get("data").textContent);
  const detail = get("detail"), list = get("list"), body = list.querySelector("tbody"), tool = get("tool");
  const direction = detail.dataset.dir, language = detail.dataset.lang;
  const { make, number, speech, labelOf, evidence, strip } = utterances(direction, language, suspects);
  const stored = `shibolet-${file}`;
  const kept = recall(); // of this browser, by id: a verdict and the text that was judged; a larger sample keeps it
  const answers = new Map(Object.entries(known)); // id -> good, bad, unsure; null: taken back
  for (const { id, text } of rows) if (kept[id]?.text === text) answers.set(id, kept[id].verdict);
  const player = new Audio();
  let sounds = null; // base64 by line, split at the first play
  let shown = [], filled = 0, current = -1; // rows as filtered and sorted; how many of them are in the table
  let sort = { key: null, up: true }; // null: worst first, as the rows came
  let isDraw = false, stopAt = null, move = () => {};

  const answerOf = (row) => answers.get(row.id) ?? null;
  // Given on this page: what others answered before it was written must not come back as this person's.
  const isMine = (row) => Boolean(kept[row.id]?.verdict) && kept[row.id].text === row.text;

  // Verdicts

  function recall() {
    try {
      return JSON.parse(localStorage.getItem(stored) ?? "{}");
    } catch {
      return {};
    }
  }

  function answer(verdict) {
    const row = shown[current];
    if (!row) return;
    answers.set(row.id, verdict);
    kept[row.id] = { verdict, text: row.text };
    try {
      localStorage.setItem(stored, JSON.stringify(kept));
    } catch {
      warn("This browser keeps nothing for this page: save the verdicts before you close it.");
    }
    mark(row, body.children[current]);
    if (isDraw && verdict && current + 1 < shown.length) select(current + 1);
    else show();
    count();
  }

  function save() {
    const lines = rows.filter(isMine)
      .map((row) => JSON.stringify({ id: row.id, verdict: answerOf(row), text: row.text }) + "\n");
    const href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
    const link = make("a", { href, download: file });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(href), 10000);
  }

  function warn(sentence) {
    get("warning").textContent = sentence;
    get("warning").hidden = false;
  }

  // The list

  const textOf = new Map(); // what a search looks at
  function haystack(row) {
    if (!textOf.has(row)) {
      const heard = row.diff.map((word) => (typeof word === "string" ? word : word[1] ?? "")).join(" ");
      textOf.set(row, [row.text, row.id, row.recording, row.speaker, heard].join("\n").toLowerCase());
    }
    return textOf.get(row);
  }

  function passes(row) {
    const wanted = (id) => get(id).value;
    return (!wanted("low") || (wanted("low") === "low") === row.low)
      && (!wanted("suspect") || row.suspect === wanted("suspect"))
      && (!wanted("reason") || row.kinds.includes(wanted("reason")))
      && (!wanted("domain") || row.domain === wanted("domain"))
      && (!wanted("flag") || (row.flags ?? []).includes(wanted("flag")))
      && (!wanted("part") || (wanted("part") === "rest") === row.rest)
      && (!wanted("answer") || (answerOf(row) ?? "none") === wanted("answer"))
      && (!get("sounding").checked || "sound" in row);
  }

  function refresh() {
    const words = get("search").value.trim().toLowerCase();
    shown = rows.filter((row) => (isDraw ? row.draw !== null : passes(row)) && haystack(row).includes(words));
    if (isDraw) shown.sort((a, b) => a.draw - b.draw);
    else if (sort.key) {
      const value = (row) => (sort.key === "answer" ? answerOf(row) : row[sort.key]);
      const order = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b) * (sort.up ? 1 : -1);
      shown.sort((one, two) => {
        const [a, b] = [value(one), value(two)];
        return a === null || b === null ? (a === null) - (b === null) : order(a, b); // what is not known comes last
      });
    }
    for (const button of list.querySelectorAll("th button")) {
      const is = !isDraw && button.dataset.key === sort.key;
      button.parentElement.setAttribute("aria-sort", is ? (sort.up ? "ascending" : "descending") : "none");
    }
    tool.classList.toggle("drawn", isDraw);
    body.replaceChildren();
    filled = 0;
    list.scrollTop = 0;
    fill();
    count();
    select(isDraw ? Math.max(shown.findIndex((row) => !answerOf(row)), 0) : 0, false);
  }

  function fill(upTo = filled + CHUNK) {
    const some = shown.slice(filled, upTo);
    body.append(...some.map(line));
    filled += some.length;
    get("more").textContent = filled < shown.length ? `${shown.length - filled} more below` : "";
  }

  function line(row) {
    const cell = (className, ...children) => make("td", { className }, make("span", {}, ...children));
    const tr = make("tr", {},
      cell("mark"),
      cell(`n conf${row.low ? " low" : ""}`, number(row.confidence, 2)),
      cell("n extra cover", row.coverage === null ? "\u2013" : `${Math.round(100 * row.coverage)}%`),
      cell(`what${row.low ? " low" : ""}`, row.low ? labelOf(row.suspect ?? "low quality") : "passed"),
      cell("extra", row.domain),
      cell("n extra", row.seconds.toFixed(1)),
      make("td", { className: "sound" in row ? "written" : "written mute", dir: direction, lang: language },
        row.text || "\u2013"));
    mark(row, tr);
    return tr;
  }

  function mark(row, tr) {
    const verdict = answerOf(row);
    tr.firstChild.firstChild.replaceChildren(
      ...(verdict ? [make("span", { className: `answer ${verdict}` }, verdict)] : ["sound" in row ? "\u266a" : ""]));
  }

  function count() {
    const judged = rows.filter(isMine);
    const drawn = rows.filter((row) => row.draw !== null);
    const done = drawn.filter((row) => answerOf(row)).length;
    get("count").textContent = isDraw
      ? `${done} of ${drawn.length} answered`
      : `${shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
    get("save").textContent = judged.length ? `Save ${judged.length}` : "Save";
    get("save").disabled = !judged.length;
  }

  function select(place, isMove = true) {
    body.children[current]?.removeAttribute("aria-selected");
    body.children[current]?.setAttribute("tabindex", "-1");
    current = shown.length ? Math.min(Math.max(place, 0), shown.length - 1) : -1;
    if (current >= filled) fill(current + CHUNK);
    const tr = body.children[current];
    if (tr) {
      tr.setAttribute("aria-selected", "true");
      tr.setAttribute("tabindex", "0"); // the one row that Tab stops at
      if (body.contains(document.activeElement)) tr.focus({ preventScroll: true });
      const top = tr.offsetTop - list.querySelector("thead").offsetHeight;
      if (top < list.scrollTop || tr.offsetTop + tr.offsetHeight > list.scrollTop + list.clientHeight) {
        list.scrollTop = top - list.clientHeight / 3;
      }
    }
    stop();
    show();
    detail.scrollTop = 0;
    const row = shown[current];
    if (row && "sound" in row) {
      sounds ??= get("sound").textContent.trim().split("\n");
      player.src = `data:audio/mpeg;base64,${sounds[row.sound]}`;
      if (isMove && get("following").checked) play();
    } else player.removeAttribute("src");
  }

  // One utterance

  function show() {
    const row = shown[current];
    if (!row) {
      detail.replaceChildren(make("p", { className: "quiet" }, "Nothing is listed."));
      return;
    }
    const verdict = (name, digit) => {
      const properties = { "data-answer": name, "aria-pressed": answerOf(row) === name, onclick: () => answer(name) };
      return make("button", properties, name, make("kbd", {}, digit));
    };
    const place = isDraw ? [`${current + 1} of ${shown.length}`] : [
      row.domain, row.recording && `recording ${row.recording}`, row.speaker && `speaker ${row.speaker}`,
      row.rest && "heard after the sample",
    ];
    const facts = [...place, `${row.seconds.toFixed(1)} s`].filter(Boolean);
    const flags = isDraw ? [] : (row.flags ?? []);
    const verdictOn = () => {
      if (!row.low) return "Nothing speaks against this one.";
      return suspects[row.suspect]?.[1] ?? "Something is wrong with this one.";
    };
    const peaks = row.wave ? Array.from(atob(row.wave), (char) => char.charCodeAt(0) / 255) : [];
    const wave = strip(row, "sound" in row ? Math.min(row.seconds, playerS) : row.seconds, peaks, play);
    move = wave.move;
    detail.replaceChildren(
      make("h2", {}, isDraw ? "Is the text what is said?" : verdictOn()),
      make("p", { className: "meta" }, `${facts.join(" \u00b7 ")} \u00b7 `, make("code", {}, row.id), " ",
        ...flags.map((flag) => make("span", { className: "chip" }, `noted: ${flag.replaceAll("_", " ")}`))),
      wave.frame,
      make("div", { className: "verdicts" },
        "sound" in row
          ? make("button", { className: "play", onclick: toggle }, "Play", make("kbd", {}, "space")) : null,
        verdict("good", "1"), verdict("bad", "2"), verdict("unsure", "3")),
      "sound" in row ? "" : make("p", { className: "quiet" }, row.silent ?? NO_ROOM),
      speech(row.text || "\u2013"),
      ...(isDraw ? [] : evidence(row)));
  }

  // Sound

  function play(from = 0, to = null) {
    if (!player.src) return;
    const begin = () => {
      player.currentTime = from;
      stopAt = to;
      player.play().then(follow, () => {}); // before a first click a browser may refuse to play
    };
    if (player.readyState > 0) begin();
    else player.addEventListener("loadedmetadata", begin, { once: true });
  }

  function toggle() {
    if (player.paused) play(player.ended || stopAt !== null ? 0 : player.currentTime);
    else stop();
  }

  function stop() {
    player.pause();
    move(null);
  }

  function follow() {
    const button = detail.querySelector(".play");
    if (button) button.firstChild.data = player.paused ? "Play" : "Pause";
    if (player.paused) return;
    move(player.currentTime);
    if (stopAt !== null && player.currentTime >= stopAt) stop();
    requestAnimationFrame(follow);
  }

  // Controls

  function offer(id, values) {
    const found = [...new Set(values)].filter((value) => value !== null).sort();
    get(id).append(...found.map((value) => make("option", { value }, labelOf(value))));
    if (!found.length) get(id).parentElement.hidden = true;
  }

  function view(draw) {
    isDraw = draw;
    get("draw").setAttribute("aria-pressed", draw);
    get("all").setAttribute("aria-pressed", !draw);
    get("search").value = "";
    refresh();
    tool.scrollIntoView({ block: "start" });
  }

  offer("domain", rows.map((row) => row.domain));
  offer("suspect", rows.map((row) => row.suspect));
  offer("flag", rows.flatMap((row) => row.flags ?? []));
  if (!rows.some((row) => row.rest)) get("part").parentElement.hidden = true;
  for (const control of get("filters").querySelectorAll("select, input")) control.onchange = refresh;
  get("search").oninput = refresh;
  get("all").onclick = () => view(false);
  get("draw").onclick = () => view(true);
  get("save").onclick = save;
  get("skip").onclick = (event) => {
    event.preventDefault();
    tool.scrollIntoView({ block: "start" });
    (body.children[current] ?? list).focus({ preventScroll: true });
  };
  list.querySelector("thead").onclick = ({ target }) => {
    if (!target.dataset.key || isDraw) return;
    sort = { key: target.dataset.key, up: sort.key === target.dataset.key ? !sort.up : true };
    refresh();
  };
  body.onclick = ({ target }) => select([...body.children].indexOf(target.closest("tr")));
  list.onscroll = () => {
    if (filled < shown.length && list.scrollTop + 2 * list.clientHeight > list.scrollHeight) fill();
  };
  document.onkeydown = (event) => {
    const isTyping = event.target.matches("input[type=search], select");
    if (event.key === "Escape") event.target.blur();
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      j: () => select(current + 1), k: () => select(current - 1), " ": toggle, "/": () => get("search").focus(),
      1: () => answer("good"), 2: () => answer("bad"), 3: () => answer("unsure"), 0: () => answer(null),
    };
    if (event.key === " " && event.target.matches("button, summary, input")) return;
    if (list.contains(event.target)) {
      Object.assign(actions, {
        ArrowDown: actions.j, ArrowUp: actions.k, Home: () => select(0), End: () => select(shown.length - 1),
      });
    }
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  };
  refresh();
}
