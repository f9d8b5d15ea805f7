// Every key: how the list of keys writes it, what it does, and pairs of names of the event and what is called.
function reviewKeys(page) {
  const { select, step, sound, answer, get } = page;
  return [
    ["\u2193 or j, \u2191 or k", "next, before", ["ArrowDown", "j"], () => step(1), ["ArrowUp", "k"], () => step(-1)],
    ["Page Down, Page Up", "twelve on, twelve back", ["PageDown"], () => step(12), ["PageUp"], () => step(-12)],
    ["Home, End", "first, last", ["Home"], () => select(0), ["End"], () => select(Infinity)],
    ["space", "play or pause", [" "], () => sound.toggle()],
    ["\u2190, \u2192", "a second back, on", ["ArrowLeft"], () => sound.seek(-1), ["ArrowRight"], () => sound.seek(1)],
    ["-, +", "slower, faster", ["-"], () => page.speedBy(-1), ["+", "="], () => page.speedBy(1)],
    ["l", "loop", ["l"], page.loop],
    ["g", "spectrogram", ["g"], page.spectrogram],
    ["[, ]", "span of this recording before, next", ["["], () => page.jumpBy(-1), ["]"], () => page.jumpBy(1)],
    ["1, 2, 3, 0", "good, bad, unsure, no verdict", ["1"], () => answer("good"), ["2"], () => answer("bad"),
      ["3"], () => answer("unsure"), ["0"], () => answer(null)],
    ["e", "correct the text; Ctrl Enter saves and accepts, Enter proposes, Esc leaves", ["e"], page.edit],
    ["a", "accept the corrected text, or take that back", ["a"], page.accept],
    ["n", "note; Enter saves", ["n"], () => get("note")?.focus()],
    ["d", "where people disagree, your verdict decides", ["d"], page.decide],
    ["u", "undo", ["u"], page.undo],
    ["w, r, v, c", "worst first, random draw, disagreements, corrections", ["w"], () => page.show("worst"), ["r"], () => page.show("draw"),
      ["v"], () => page.show("disagreements"), ["c"], () => page.show("corrections")],
    ["/", "search; Esc leaves", ["/"], () => get("search").focus()],
    ["f", "filters", ["f"], () => page.toFilters()],
    ["?", "this list", ["?"], () => get("keys").showModal()],
  ];
}
