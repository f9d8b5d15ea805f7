// The list of utterances, of which only rows in sight are elements, and its filters: histograms that can be clicked.
function reviewList({ make, element, onSelect, line }) {
  const ROW_PX = 34, MORE = 8; // rows beyond the edges
  const space = make("div", { className: "space", role: "presentation" });
  let shown = [], current = -1, drawn = new Map(), isDue = false;
  element.append(space);

  function draw() {
    isDue = false;
    const first = Math.max(Math.floor(element.scrollTop / ROW_PX) - MORE, 0);
    const end = Math.min(Math.ceil((element.scrollTop + element.clientHeight) / ROW_PX) + MORE, shown.length);
    const wanted = new Set(Array.from({ length: Math.max(end - first, 0) }, (_, i) => first + i));
    if (current >= 0) wanted.add(current); // what a screen reader is told to be active has to be there
    for (const [place, row] of drawn) {
      if (wanted.has(place)) continue;
      row.remove();
      drawn.delete(place);
    }
    for (const place of wanted) {
      if (drawn.has(place)) continue;
      const row = line(shown[place]);
      row.id = `row-${place}`;
      row.setAttribute("role", "option");
      row.setAttribute("aria-posinset", place + 1);
      row.setAttribute("aria-setsize", shown.length);
      row.setAttribute("aria-selected", place === current);
      row.style.top = `${place * ROW_PX}px`;
      row.onclick = () => select(place);
      drawn.set(place, row);
      space.append(row);
    }
  }

  function redraw() {
    for (const row of drawn.values()) row.remove();
    drawn = new Map();
    draw();
  }

  function show(rows) {
    shown = rows;
    current = -1;
    space.style.height = `${rows.length * ROW_PX}px`;
    element.scrollTop = 0;
    redraw();
  }

  function select(place, isMove = true) {
    const before = current;
    current = shown.length ? Math.min(Math.max(place, 0), shown.length - 1) : -1;
    drawn.get(before)?.setAttribute("aria-selected", "false");
    const top = current * ROW_PX, height = element.clientHeight;
    if (top < element.scrollTop || top + ROW_PX > element.scrollTop + height) {
      element.scrollTop = Math.max(top - height / 3, 0);
    }
    draw();
    drawn.get(current)?.setAttribute("aria-selected", "true");
    if (current >= 0) element.setAttribute("aria-activedescendant", `row-${current}`);
    else element.removeAttribute("aria-activedescendant");
    onSelect(shown[current] ?? null, isMove);
  }

  element.addEventListener("scroll", () => {
    if (!isDue) requestAnimationFrame(draw);
    isDue = true;
  });
  new ResizeObserver(draw).observe(element);

  return {
    show, select, redraw,
    get row() { return shown[current] ?? null; },
    get place() { return current; },
    get rows() { return shown; },
  };
}

// Histograms of `rows`, each a facet: { title, bins: [label], of: row -> number of its bin or several, isNumeric, isLive }.
// A bin that is clicked is a filter; of one facet any chosen bin will do. Each shows what the other facets let pass.
function reviewFacets({ make, element, rows, facets, onChange }) {
  const state = facets.map((facet) => ({
    ...facet, chosen: new Set(), counts: new Uint32Array(facet.bins.length), buttons: [], at: rows.map(facet.of),
  }));

  function build() {
    element.replaceChildren(...state.map((facet) => {
      facet.buttons = facet.bins.map((label, bin) => {
        const bar = make("span", { className: "fill" });
        const text = facet.isNumeric ? [bar] : [bar, make("span", { className: "label" }, label),
          make("span", { className: "num" })];
        const properties = { type: "button", "aria-pressed": "false", onclick: () => toggle(facet, bin) };
        return make("button", facet.isNumeric ? { ...properties, title: label } : properties, ...text);
      });
      const ends = facet.isNumeric
        ? make("p", { className: "ends" }, make("span", {}, facet.bins[0]), make("span", {}, facet.bins.at(-1))) : "";
      return make("fieldset", { className: facet.isNumeric ? "facet numeric" : "facet" },
        make("legend", {}, facet.title), make("div", { className: "bins" }, ...facet.buttons), ends);
    }));
    element.append(make("button", { type: "button", id: "clear", onclick: clear }, "Clear filters"));
  }

  function toggle(facet, bin) {
    if (!facet.chosen.delete(bin)) facet.chosen.add(bin);
    onChange();
  }

  function clear() {
    for (const facet of state) facet.chosen.clear();
    onChange();
  }

  const isChosen = (facet, at) =>
    (typeof at === "number" ? facet.chosen.has(at) : at.some((bin) => facet.chosen.has(bin)));

  function tally(facet, at) {
    if (typeof at === "number") facet.counts[at]++;
    else for (const bin of at) facet.counts[bin]++;
  }

  // The rows that pass all facets and `isWanted`, in their order.
  function passing(isWanted) {
    const found = [];
    for (const facet of state) facet.counts.fill(0);
    for (let i = 0; i < rows.length; i++) {
      if (!isWanted(rows[i])) continue;
      let failed = null, numFailed = 0;
      for (const facet of state) {
        if (facet.isLive) facet.at[i] = facet.of(rows[i]);
        if (!facet.chosen.size || isChosen(facet, facet.at[i])) continue;
        failed = facet;
        if (++numFailed > 1) break;
      }
      if (numFailed === 0) found.push(rows[i]);
      for (const facet of numFailed === 0 ? state : numFailed === 1 ? [failed] : []) tally(facet, facet.at[i]);
    }
    paint();
    return found;
  }

  function paint() {
    for (const facet of state) {
      const most = Math.max(...facet.counts, 1);
      facet.buttons.forEach((button, bin) => {
        const num = facet.counts[bin], size = num ? `${Math.max((100 * num) / most, 2)}%` : "0";
        button.firstChild.style[facet.isNumeric ? "height" : "width"] = size;
        button.setAttribute("aria-pressed", facet.chosen.has(bin));
        if (facet.isNumeric) button.setAttribute("aria-label", `${facet.bins[bin]}: ${num} utterances`);
        else button.lastChild.textContent = num.toLocaleString("en");
      });
      facet.buttons[0]?.closest("fieldset").classList.toggle("on", facet.chosen.size > 0);
    }
    element.querySelector("#clear").disabled = !state.some((facet) => facet.chosen.size);
  }

  build();
  return { passing, clear };
}

// Bins of equal width over the values.
function between(values, num, label) {
  const most = values.reduce((a, b) => Math.max(a, b)), low = values.reduce((a, b) => Math.min(a, b));
  const step = (most - low) / num || 1;
  const bins = Array.from({ length: num }, (_, i) => label(low + i * step, low + (i + 1) * step));
  return { bins, of: (value) => Math.min(Math.floor((value - low) / step), num - 1) };
}

// What utterances are filtered by; a facet with one bin, or very many, would be no filter.
function facetsOf(rows, { verdictOf, labelOf, reasons }) {
  const one = (bins) => (bins.length === 1 ? bins[0] : bins);
  const named = (title, of, label = (value) => value) => {
    const names = [...new Set(rows.flatMap(of))].sort(), place = new Map(names.map((value, i) => [value, i]));
    return { title, bins: names.map(label), of: (row) => one(of(row).map((value) => place.get(value))) };
  };
  const verdicts = ["no verdict", "good", "bad", "unsure"];
  const length = between(rows.map((row) => Math.log2(Math.max(row.seconds, 0.1))), 16,
    (a, b) => `${(2 ** a).toFixed(1)} to ${(2 ** b).toFixed(1)} s`);
  const found = [
    { title: "Yours", bins: verdicts, isLive: true, of: (row) => verdicts.indexOf(verdictOf(row) ?? "no verdict") },
    {
      title: "Confidence", isNumeric: true,
      bins: Array.from({ length: 20 }, (_, i) => `${(i / 20).toFixed(2)} to ${((i + 1) / 20).toFixed(2)}`),
      of: (row) => (row.confidence === null ? [] : Math.min(Math.floor(20 * row.confidence), 19)),
    },
    { title: "Length", isNumeric: true, bins: length.bins, of: (row) => length.of(Math.log2(Math.max(row.seconds, 0.1))) },
    named("Verdict of the audit", (row) => [row.low ? "low quality" : "passed"]),
    named("Suspect", (row) => (row.suspect ? [row.suspect] : []), labelOf),
    named("Reason", (row) => row.kinds, (kind) => reasons[kind] ?? kind),
    named("Domain", (row) => [row.domain]),
    named("Noted", (row) => row.flags ?? [], labelOf),
    named("Part", (row) => [row.rest ? "the rest" : "the sample"]),
  ];
  return found.filter((facet) => facet.bins.length > 1 && facet.bins.length <= 40);
}
