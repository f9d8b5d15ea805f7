// The page of a review: what is listed, what is shown of one utterance, and every key. See the other files for the sound,
// the list with its filters, and the answers.
{
  const get = (id) => document.getElementById(id);
  const { suspects, reasons } = JSON.parse(get("data").textContent);
  const detail = get("detail"), direction = detail.dataset.dir, language = detail.dataset.lang;
  const parts = utterances(direction, language, suspects), { make, visible, number, labelOf } = parts;
  const tool = get("tool"), details = new Map(); // of rows what the server says besides
  const sortings = {
    "worst first": null,
    "confidence, high first": (a, b) => (b.confidence ?? -1) - (a.confidence ?? -1),
    "short first": (a, b) => a.seconds - b.seconds,
    "long first": (a, b) => b.seconds - a.seconds,
    "by domain": (a, b) => (a.domain < b.domain ? -1 : Number(a.domain > b.domain)),
    "by recording": (a, b) => a.tape - b.tape || a.start - b.start,
  };
  let words = "", rows = [], byTape = new Map(), view = "worst", facets = null, standingDue = null;
  // What is on the page: the list, the span of its row that is heard, its sound once it is there, and its cursor.
  const state = { list: null, span: 0, loaded: null, hasSpectrogram: false, move: () => {} };
  const name = { get: () => recalled("shibolet-name"), set: (value) => recall("shibolet-name", value) };

  function recalled(key) {
    try {
      return localStorage.getItem(key) ?? "";
    } catch {
      return "";
    }
  }

  function recall(key, value) {
    try {
      localStorage.setItem(key, value);
    } catch {
      // It is asked again next time.
    }
  }

  const sound = reviewSound({
    onFrame: (at) => state.move(at),
    onState: (isPlaying) => {
      const button = detail.querySelector(".play");
      if (button) button.firstChild.data = isPlaying ? "Pause" : "Play";
    },
  });

  const answers = reviewAnswers({
    onChange: (id) => {
      state.list?.redraw();
      if (id === null || id === state.list?.row?.id) refreshAnswers();
      count();
      clearTimeout(standingDue);
      standingDue = setTimeout(() => {
        if (state.list) facets.passing(isWanted);
        showStanding();
      }, 500);
    },
    onWaiting: (num, why) => {
      get("saved").textContent = num ? `${num} not saved yet` : "saved";
      if (why) warn(why);
      else if (!num) get("warning").hidden = true;
    },
    onRefused: (why) => warn(why),
  });

  function warn(sentence) {
    get("warning").textContent = visible(sentence);
    get("warning").hidden = false;
  }

  // What is listed

  const mine = (row) => answers.mine(row);
  const isBlind = () => view === "draw"; // who judges the random draw is not told what the audit or others think
  function correctionShown(row) {
    if (!isBlind()) return answers.correction(row);
    return mine(row).corrected === null ? null : mine(row);
  }

  const wanted = {
    worst: () => true,
    draw: (row) => row.draw !== null,
    disagreements: (row) => answers.isDisputed(row),
    corrections: (row) => answers.correction(row) !== null,
  };

  function haystack(row) {
    row.hay ??= [row.text, row.id, row.recording, row.speaker, row.heard].join("\n").toLowerCase();
    return row.hay;
  }

  function isWanted(row) {
    return wanted[view](row) && (!words || haystack(row).includes(words));
  }

  function refresh(keep = null) {
    words = get("search").value.trim().toLowerCase();
    const shown = facets.passing(isWanted);
    const order = sortings[get("sort").value];
    if (isBlind()) shown.sort((a, b) => a.draw - b.draw);
    else if (order) shown.sort(order);
    tool.classList.toggle("blind", isBlind());
    state.list.show(shown);
    count();
    const first = isBlind() ? shown.findIndex((row) => !answers.verdict(row)) : 0;
    state.list.select(Math.max(keep ? shown.indexOf(keep) : first, 0), false);
  }

  function show(which) {
    view = which;
    for (const button of document.querySelectorAll("[data-view]")) {
      button.setAttribute("aria-pressed", button.dataset.view === view);
    }
    get("search").value = "";
    facets.clear();
    get("list").focus({ preventScroll: true });
  }

  function count() {
    if (!state.list) return;
    const done = isBlind() && state.list.rows.reduce((num, row) => num + Boolean(answers.verdict(row)), 0);
    const of = state.list.rows.length.toLocaleString("en");
    get("count").textContent = isBlind() ? `${done} of ${of} answered` : `${of} of ${rows.length.toLocaleString("en")}`;
    get("undo").disabled = !answers.numUndo;
  }

  function lineOf(row) {
    const own = mine(row), cell = (className, text) => make("span", { className }, text);
    const mark = own.verdict ? cell(`answer ${own.verdict}`, own.verdict) : "";
    const correction = correctionShown(row);
    return make("div", { className: "line" },
      make("span", { className: "mark" }, mark),
      cell(`conf n${row.low ? " low" : ""}`, number(row.confidence, 2)),
      cell(`what${row.low ? " low" : ""}`, row.low ? labelOf(row.suspect ?? "low quality") : "passed"),
      cell("length n", row.seconds.toFixed(1)),
      make("span", { className: "written", dir: direction, lang: language }, (correction?.corrected ?? row.text) || "\u2013"));
  }

  async function open(row, isMove, toSpan = 0) {
    state.span = toSpan;
    state.loaded = null;
    putAside(row);
    showDetail(row);
    if (!row) return sound.stop();
    const known = details.get(row.id) ?? fetch(`entry?place=${row.place}`).then((answer) => answer.json());
    details.set(row.id, known);
    const asked = sound.load(row, state.span).catch((error) => ({ error }));
    try {
      Object.assign(row, await known);
    } catch {
      details.delete(row.id);
    }
    if (row === state.list.row) showDetail(row);
    const found = await asked;
    if (row !== state.list.row || !found || state.span !== toSpan) return;
    state.loaded = found;
    showDetail(row);
    if (!found.error && isMove && get("following").checked) sound.play();
    const next = state.list.rows[state.list.place + 1];
    if (next) sound.ahead(next);
  }

  // What a person does

  function answer(verdict) {
    const row = state.list.row;
    if (!row) return;
    const isNew = !mine(row).verdict;
    answers.change(row, { verdict, decides: false });
    if (isBlind() && verdict && isNew) state.list.select(state.list.place + 1);
  }

  function decide() {
    const row = state.list.row;
    if (row && mine(row).verdict) answers.change(row, { decides: true });
  }

  function accept() {
    const row = state.list.row, found = row && correctionShown(row);
    if (!found) return;
    if (found.accepted && found.by !== mine(row).by) warn(`${found.by} accepted it, and can take it back.`);
    else answers.change(row, { corrected: found.corrected, accepted: !found.accepted });
  }

  function undo() {
    const row = answers.undo();
    const place = row ? state.list.rows.indexOf(row) : -1;
    if (place >= 0 && row !== state.list.row) state.list.select(place, false);
  }

  // Of the row's recording in order of time; who judges the random draw stays with one utterance.
  function spansNear(row) {
    const own = isBlind() ? [row] : byTape.get(row.tape);
    return own.flatMap((one) => Array.from({ length: sound.numSpans(one) }, (_, i) => ({ row: one, span: i })));
  }

  function jumpBy(step) {
    if (!state.list.row) return;
    const spans = spansNear(state.list.row);
    const next = spans[spans.findIndex((one) => one.row === state.list.row && one.span === state.span) + step];
    if (!next) return;
    if (next.row === state.list.row) return void open(next.row, true, next.span);
    const place = state.list.rows.indexOf(next.row);
    if (place < 0) return warn("The filters hide the next span of this recording.");
    state.list.select(place);
  }

  function speedBy(step) {
    get("speed").value = `${sound.speed(step)}\u00d7`;
  }

  function loop() {
    get("loop")?.setAttribute("aria-pressed", sound.loop());
  }

  function spectrogram() {
    state.hasSpectrogram = !state.hasSpectrogram;
    showDetail(state.list.row);
  }

  // What the answers come to

  async function showStanding() {
    try {
      const found = await (await fetch("standing")).json();
      const people = Object.entries(found.people).map(([who, num]) => `${who} ${num}`);
      const pairs = found.pairs.map(({ names, num_both: num, kappa, agreed_frac: agreed }) =>
        `${names.join(" and ")} agree on ${Math.round(100 * agreed)}% of ${num} (Cohen's kappa ${kappa === null ? "not defined" : kappa.toFixed(2)})`);
      const texts = found.num_corrected + found.num_proposed
        ? [`texts corrected: ${found.num_corrected}, proposed: ${found.num_proposed}`] : [];
      get("rate").textContent = visible(found.sentence);
      get("people").textContent = visible([people.join(", "), ...pairs, ...texts].filter(Boolean).join(" \u00b7 "));
      const num = found.disagreements.length;
      document.querySelector("[data-view=disagreements]").textContent = num ? `Disagreements ${num}` : "Disagreements";
    } catch {
      // No server: what is sent says so.
    }
  }

  async function importFile() {
    const [file] = get("file").files;
    get("file").value = "";
    if (!file) return;
    try {
      const answer = await answers.ask(`import?name=${encodeURIComponent(file.name)}`, await file.text());
      const said = await answer.json();
      const old = said.old ? `, ${said.old} were here already, or newer ones are` : "";
      warn(answer.ok ? `${said.new} answers were taken in${old}, ${said.unknown} are about other utterances.` : said.error);
      await answers.poll();
    } catch {
      warn("The server does not answer: run 'shibolet review' again.");
    }
  }

  // Keys

  const { showDetail, refreshAnswers, edit, putAside } = reviewDetail({
    parts, direction, language, suspects, state, sound, answers, isBlind, correctionShown, spansNear, answer, accept,
    decide, jumpBy, speedBy, loop, spectrogram,
  });
  const keys = reviewKeys({
    select: (place) => state.list.select(place), step: (num) => state.list.select(state.list.place + num),
    sound, answer, edit, accept, decide, undo, speedBy, loop, spectrogram, jumpBy, show, toFilters, get,
  });
  const actions = new Map(keys.flatMap(([, , ...pairs]) =>
    pairs.flatMap((part, i) => (i % 2 ? [] : part.map((key) => [key, pairs[i + 1]])))));

  function toFilters() {
    tool.classList.remove("unfiltered");
    get("filtering").setAttribute("aria-expanded", "true");
    get("filters").querySelector("button")?.focus();
  }

  function toggleFilters() {
    const isShown = !tool.classList.toggle("unfiltered");
    get("filtering").setAttribute("aria-expanded", isShown);
  }

  function onKey(event) {
    if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const { target } = event;
    if (target.matches("input[type=search], input[type=text], textarea")) {
      if (event.key === "Escape" || (event.key === "Enter" && target.matches("input"))) get("list").focus({ preventScroll: true });
      return;
    }
    if (target.matches("select") && event.key !== "Escape") return;
    if (event.key === "Escape") return get("list").focus({ preventScroll: true });
    if (event.key === " " && target.matches("button, input, a, summary")) return;
    const action = actions.get(event.key);
    if (!action || !state.list) return;
    event.preventDefault();
    action();
  }

  // The beginning

  function fillPage() {
    get("sort").append(...Object.keys(sortings).map((value) => make("option", { value }, value)));
    get("keys").querySelector("dl").append(...keys.flatMap(([key, what]) => [make("dt", {}, key), make("dd", {}, what)]));
    for (const button of document.querySelectorAll("[data-view]")) button.onclick = () => show(button.dataset.view);
    get("search").oninput = () => refresh();
    get("sort").onchange = () => refresh();
    get("filtering").onclick = toggleFilters;
    get("undo").onclick = undo;
    get("help").onclick = () => get("keys").showModal();
    get("me").onclick = () => get("who").showModal();
    get("import").onclick = () => get("file").click();
    get("file").onchange = importFile;
    get("who").addEventListener("close", () => called(get("name").value.trim()));
    get("who").addEventListener("cancel", (event) => name.get() || event.preventDefault());
    if (innerWidth < 1000) toggleFilters();
    document.addEventListener("keydown", onKey);
  }

  function called(who) {
    if (!who) return void get("who").showModal();
    const isFirst = !state.list;
    name.set(who);
    get("me").textContent = visible(who);
    get("name").value = who;
    if (isFirst) begin(who);
    else {
      answers.rename(who);
      refresh(state.list.row);
    }
  }

  async function begin(who) {
    get("count").textContent = "loading";
    rows = await (await fetch("rows")).json();
    rows.forEach((row, place) => {
      row.place = place;
      if (!byTape.has(row.tape)) byTape.set(row.tape, []);
      byTape.get(row.tape).push(row);
    });
    for (const own of byTape.values()) own.sort((a, b) => a.start - b.start);
    await answers.begin(who);
    state.list = reviewList({ make, element: get("list"), line: lineOf, onSelect: open });
    facets = reviewFacets({
      make, element: get("filters"), rows, facets: facetsOf(rows, { verdictOf: answers.verdict, labelOf, reasons }),
      onChange: () => refresh(state.list.row),
    });
    refresh();
    get("list").focus({ preventScroll: true });
    get("saved").textContent = answers.numWaiting ? get("saved").textContent : "saved";
    showStanding();
    hayAhead(0);
  }

  // So that the first search need not make all texts lower case.
  function hayAhead(first) {
    rows.slice(first, first + 500).forEach(haystack);
    if (first < rows.length) setTimeout(() => hayAhead(first + 500), 5);
  }

  fillPage();
  if (name.get()) called(name.get());
  else get("who").showModal();
}
