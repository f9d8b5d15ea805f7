"use strict";
// What the pages on which people judge show of one utterance: its wave, its words, and what was heard against its text.
// Text of the data reaches a page as text nodes only.
function utterances(direction, language, suspects) {
  // Control characters, and those that turn the direction of text, are named: a line could be made to read as another.
  const unseen = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;
  const visible = (text) =>
    text.replace(unseen, (char) => `[U+${char.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    }
    const some = children.filter((child) => child !== null);
    element.append(...some.map((child) => (typeof child === "string" ? visible(child) : child)));
    return element;
  }

  const speech = (...children) => // it may scroll, which takes a focus
    make("p", { className: "speech", dir: direction, lang: language, tabIndex: 0 }, ...children);
  const labelOf = (suspect) => (suspects[suspect] ? suspects[suspect][0] : suspect.replaceAll("_", " "));
  const number = (value, digits) => (value === null ? "\u2013" : value.toFixed(digits));

  function evidence(row) {
    const words = row.diff.flatMap((word) => {
      if (typeof word === "string") return [word, " "];
      const [written, heard] = word;
      const old = written && make("del", {}, written), other = heard && make("ins", {}, heard);
      return [old && other ? make("span", { className: "sub" }, old, " ", other) : old ?? other, " "];
    });
    const numbers = [
      row.confidence !== null && `confidence (a score) ${number(row.confidence, 2)}`,
      row.probability !== null && `probability ${number(row.probability, 2)}`,
      row.coverage !== null && `evidence for ${Math.round(100 * row.coverage)}% of the words`,
      row.snr_db !== null && `speech ${row.snr_db} dB over the noise`,
    ].filter(Boolean);
    return [
      row.why.length ? make("h3", {}, "Why") : null,
      row.why.length ? make("ul", {}, ...row.why.map((why) => make("li", {}, why))) : null,
      row.diff.length ? make("h3", {}, "Heard against written: ", make("del", {}, "written only"), " ",
        make("ins", {}, "heard only")) : null,
      row.diff.length ? speech(...words) : null,
      make("p", { className: "quiet" }, numbers.join(", ")),
    ].filter(Boolean);
  }

  // The wave of so many seconds, a row's words under it and a cursor: the element, and a function that moves the cursor to
  // a time, null for none. `peaks` are of 0 to 1; `play(from, to)` is called for what is clicked, in seconds. What is
  // shown begins at `first` seconds, which only the axis says.
  function strip(row, seconds, peaks, play, first = 0) {
    const length = Math.max(seconds, 0.01), words = [];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    svg.setAttribute("viewBox", `0 0 ${peaks.length || 1} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    const edge = (side) => peaks.map((peak, i) => `${i + 0.5} ${(50 + side * (0.7 + 48 * peak)).toFixed(1)}`);
    path.setAttribute("d", peaks.length ? `M${edge(-1).join("L")}L${edge(1).reverse().join("L")}Z` : "M0 50H1");
    path.setAttribute("class", peaks.length ? "wave" : "base");
    svg.append(path);
    const box = make("div", { className: "strip" }, svg, make("div", { className: row.times.length ? "lane" : "" }));
    svg.onclick = (event) => play(((event.clientX - box.getBoundingClientRect().left) / box.offsetWidth) * length);
    const spans = make("div", { className: "spans" });
    row.words.forEach((word, i) => {
      const [start, end] = [row.times[2 * i], row.times[2 * i + 1]];
      if (start === undefined || start >= length) return;
      const properties = {
        className: "word", title: `${start.toFixed(2)} to ${end.toFixed(2)} s`,
        onclick: () => play(start, Math.max(end, start + 0.12)),
      };
      const button = make("button", properties, make("span", { dir: direction, lang: language }, word));
      button.style.left = `${(100 * start) / length}%`;
      button.style.width = `${(100 * Math.max(Math.min(end, length) - start, 0)) / length}%`;
      spans.append(button);
      words.push([start, end, button]);
    });
    const cursor = make("div", { className: "cursor", hidden: true });
    box.append(spans, cursor);
    box.style.width = `${Math.max(100, (row.times.length / 2) * 11)}%`; // room for the words under the wave
    const ends = [`${first} s`, `${(first + length).toFixed(1)} s`].map((end) => make("span", {}, end));
    box.append(make("div", { className: "axis" }, ...ends));
    const frame = make("div", { className: "strip-scroll" }, box);
    const move = (at) => {
      cursor.hidden = at === null;
      for (const [start, end, button] of words) button.classList.toggle("now", at !== null && start <= at && at < end);
      if (at === null) return;
      cursor.style.left = `${(100 * at) / length}%`;
      const x = (at / length) * box.offsetWidth;
      if (x < frame.scrollLeft || x > frame.scrollLeft + frame.clientWidth) frame.scrollLeft = x - 40;
    };
    return { frame, move };
  }

  return { make, visible, number, speech, labelOf, evidence, strip };
}
