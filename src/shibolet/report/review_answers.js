// Everybody's answers: one's own go to the server at once, and wait in this browser while it does not answer.
function reviewAnswers({ onChange, onWaiting, onRefused }) {
  const GONE = "The server does not answer. Your answers wait in this browser: run 'shibolet review' again.";
  const POLL_MS = 2000, AGAIN_MS = 500;
  const stored = () => `shibolet-unsent-${location.pathname}-${me}`; // two people may share a browser
  const said = new Map(); // utterance -> name -> the last answer
  const undone = []; // one's own answers as they were before the last changes
  let unsent = [], known = 0, isSending = false, why = "", me = "";

  function recall() {
    try {
      return JSON.parse(localStorage.getItem(stored()) ?? "[]");
    } catch {
      return [];
    }
  }

  function remember() {
    try {
      localStorage.setItem(stored(), JSON.stringify(unsent));
    } catch {
      // It is full or switched off: the answers are in this page alone until the server has them.
    }
  }

  function put(answer) {
    if (!said.has(answer.id)) said.set(answer.id, new Map());
    const own = said.get(answer.id), before = own.get(answer.by);
    const isOther = ["text", "corrected", "accepted"].some((key) => answer[key] !== before?.[key]);
    if (isOther) own.delete(answer.by); // the order is that of the corrections; a note or a verdict is none
    own.set(answer.by, answer);
  }

  const verdict = (row) => {
    const answer = said.get(row.id)?.get(me);
    return answer?.text === row.text ? answer.verdict : null;
  };
  const of = (row) => [...(said.get(row.id)?.values() ?? [])].filter((answer) => answer.text === row.text);
  const mine = (row) => of(row).find((answer) => answer.by === me) ?? blank(row);
  const others = (row) => of(row).filter((answer) => answer.by !== me);
  const blank = (row) => ({
    by: me, id: row.id, text: row.text, verdict: null, note: "", corrected: null, accepted: false, decides: false,
  });

  function change(row, values) {
    const before = mine(row);
    undone.push({ row, before });
    post({ ...before, ...values });
  }

  function undo() {
    const last = undone.pop();
    if (last) post(last.before);
    return last?.row ?? null;
  }

  function post(answer) {
    const { at, ...sent } = answer;
    put(sent);
    unsent.push(sent);
    remember();
    onWaiting(unsent.length, why);
    onChange(sent.id);
    send();
  }

  async function send() {
    if (isSending) return;
    isSending = true;
    while (unsent.length) {
      let answer = null;
      try {
        answer = await ask("answer", unsent[0]);
      } catch {
        // no server
      }
      const told = answer?.ok ? null : await reason(answer);
      const isRefused = [413, 422].includes(answer?.status); // it would be refused again
      if (answer?.ok || isRefused) {
        unsent.shift();
        remember();
        if (isRefused) await forget();
        why = "";
        onWaiting(unsent.length, why);
        if (told) onRefused(told);
      } else {
        why = told;
        onWaiting(unsent.length, why);
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    }
    isSending = false;
  }

  // Why an answer was not kept: the disk may be full, or there is no server.
  async function reason(answer) {
    try {
      return answer ? (await answer.json()).error : GONE;
    } catch {
      return GONE;
    }
  }

  const ask = (name, value) => fetch(name, {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: typeof value === "string" ? value : JSON.stringify(value),
  });

  async function poll() {
    try {
      const answer = await fetch(`changes?after=${known}`);
      if (answer.ok) {
        const { num, answers } = await answer.json();
        const waiting = new Set(unsent.map((one) => `${one.by}\n${one.id}`));
        for (const one of answers) if (!waiting.has(`${one.by}\n${one.id}`)) put(one);
        known = num;
        if (answers.length) onChange(null);
      }
    } catch {
      // No server: what is sent says so.
    }
  }

  // What the server refused is not what anybody said.
  async function forget() {
    said.clear();
    known = 0;
    await poll();
    unsent.forEach(put);
    onChange(null);
  }

  async function begin(name) {
    me = name;
    unsent = recall(); // of a page that was closed before the server had them
    unsent.forEach(put);
    await poll();
    if (unsent.length) send();
    setInterval(poll, POLL_MS);
  }

  // An utterance that one person calls good and another bad, and nobody has decided.
  function isDisputed(row) {
    const own = of(row), verdicts = new Set(own.map((answer) => answer.verdict));
    return verdicts.has("good") && verdicts.has("bad") && !own.some((answer) => answer.decides && answer.verdict);
  }

  // What everybody's corrections come to: the accepted one, or the last that was proposed; null: none.
  function correction(row) {
    const own = of(row).filter((answer) => answer.corrected !== null);
    return own.filter((answer) => answer.accepted).at(-1) ?? own.at(-1) ?? null;
  }

  return {
    begin, change, undo, mine, verdict, others, isDisputed, correction, ask, poll,
    rename: (name) => {
      const waiting = unsent;
      unsent = [];
      remember(); // what waits goes on under the name that this page has now
      me = name;
      const before = recall(); // that waited under it when the page was closed
      before.forEach(put);
      unsent = [...waiting, ...before]; // the first may be on its way
      undone.length = 0;
      remember();
      onWaiting(unsent.length, why);
      send();
    },
    get numUndo() { return undone.length; },
    get numWaiting() { return unsent.length; },
  };
}
