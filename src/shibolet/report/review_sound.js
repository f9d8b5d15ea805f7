// Sound of one utterance from the server: a player, its wave and its spectrogram. A long utterance comes in spans.
function reviewSound({ onFrame, onState }) {
  const SPAN_S = 30, LONG_S = 45; // an utterance over LONG_S is heard in spans
  const POINTS = 400; // of an envelope
  const SPEEDS = [0.5, 0.75, 1, 1.25, 1.5, 2];
  const player = new Audio();
  const kept = new Map(); // the last few sounds by place and span: promises
  let from = 0, to = null, isLooped = false, url = null, wanted = null;

  const numSpans = (row) => (row.seconds > LONG_S ? Math.ceil(row.seconds / SPAN_S) : 1);

  function spanOf(row, span) {
    if (numSpans(row) === 1) return [0, row.seconds];
    return [span * SPAN_S, Math.min((span + 1) * SPAN_S, row.seconds)];
  }

  async function get(row, span) {
    const [start, end] = spanOf(row, span);
    const length = Math.max(end - start, 0.01) + (numSpans(row) === 1 ? 1 : 0); // its length as decoded may be longer
    const answer = await fetch(`sound?place=${row.place}&start_s=${start}&length_s=${length}`);
    if (!answer.ok) throw new Error((await answer.json()).error);
    const wav = await answer.arrayBuffer();
    return { wav, samples: new Int16Array(wav, 44), rate: new DataView(wav).getUint32(24, true) };
  }

  function sound(row, span) {
    const key = `${row.place}/${span}`;
    const found = kept.get(key) ?? get(row, span);
    kept.delete(key);
    kept.set(key, found);
    found.catch(() => kept.delete(key));
    if (kept.size > 6) kept.delete(kept.keys().next().value);
    return found;
  }

  // The sound of a row's span, loaded into the player; null when another one was asked for meanwhile.
  async function load(row, span) {
    const mine = (wanted = {});
    stop();
    player.removeAttribute("src");
    const found = await sound(row, span);
    if (mine !== wanted) return null;
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(new Blob([found.wav], { type: "audio/wav" }));
    player.src = url;
    from = 0;
    to = null;
    return found;
  }

  function peaks({ samples }) {
    const size = Math.ceil(samples.length / POINTS) || 1, found = [];
    for (let first = 0; first < samples.length; first += size) {
      let most = 0;
      for (let i = first; i < Math.min(first + size, samples.length); i++) most = Math.max(most, Math.abs(samples[i]));
      found.push(most);
    }
    const top = Math.max(...found, 33);
    return found.map((peak) => peak / top);
  }

  function play(start = 0, end = null) {
    if (!player.getAttribute("src")) return;
    const begin = () => {
      [from, to] = [start, end];
      player.currentTime = start;
      player.play().then(follow, () => {}); // before a first key or click a browser may refuse to play
    };
    if (player.readyState > 0) begin();
    else player.addEventListener("loadedmetadata", begin, { once: true });
  }

  function stop() {
    player.pause();
    onState(false);
  }

  function follow() {
    onState(!player.paused);
    onFrame(player.currentTime);
    if (player.paused) return;
    if (to !== null && player.currentTime >= to) {
      if (!isLooped) return stop();
      player.currentTime = from;
    }
    requestAnimationFrame(follow);
  }

  function toggle() {
    if (!player.paused) return stop();
    play(to !== null ? from : player.ended ? 0 : player.currentTime, to);
  }

  function seek(seconds) {
    if (!player.getAttribute("src")) return;
    to = null;
    player.currentTime = Math.min(Math.max(player.currentTime + seconds, 0), player.duration || 0);
    onFrame(player.currentTime);
  }

  function speed(step) {
    const place = SPEEDS.indexOf(player.defaultPlaybackRate) + step;
    player.defaultPlaybackRate = player.playbackRate = SPEEDS[Math.min(Math.max(place, 0), SPEEDS.length - 1)];
    return player.playbackRate;
  }

  function loop() {
    isLooped = !isLooped;
    player.loop = isLooped; // of the whole; a word is begun again by `follow`
    return isLooped;
  }

  return {
    load, peaks, play, stop, toggle, seek, speed, loop, numSpans, spanOf,
    ahead: (row) => sound(row, 0).catch(() => {}),
    get rate() { return player.playbackRate; },
    get isLooped() { return isLooped; },
  };
}

// Draws the spectrogram of samples into a canvas: 25 ms windows, 0 to 8 kHz upwards, 70 dB from the strongest down.
function drawSpectrogram(canvas, { samples, rate }, dark) {
  const SIZE = 512, BINS = SIZE / 2, width = 600, length = Math.round(0.025 * rate);
  canvas.width = width;
  canvas.height = BINS;
  const powers = new Float32Array(width * BINS);
  const window_ = Float32Array.from({ length }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / (length - 1)));
  const re = new Float32Array(SIZE), im = new Float32Array(SIZE);
  let top = -Infinity;
  for (let x = 0; x < width; x++) {
    const first = Math.round((x / width) * Math.max(samples.length - length, 0));
    re.fill(0);
    im.fill(0);
    for (let i = 0; i < length && first + i < samples.length; i++) re[i] = samples[first + i] * window_[i];
    transform(re, im);
    for (let bin = 0; bin < BINS; bin++) {
      const power = 10 * Math.log10(re[bin] ** 2 + im[bin] ** 2 + 1);
      powers[x * BINS + bin] = power;
      top = Math.max(top, power);
    }
  }
  const context = canvas.getContext("2d"), image = context.createImageData(width, BINS);
  const [ink, paper] = dark ? [[99, 195, 189], [23, 22, 19]] : [[8, 70, 68], [251, 250, 247]];
  for (let x = 0; x < width; x++) {
    for (let bin = 0; bin < BINS; bin++) {
      const share = Math.min(Math.max(1 + (powers[x * BINS + bin] - top) / 70, 0), 1);
      const at = 4 * ((BINS - 1 - bin) * width + x);
      for (let color = 0; color < 3; color++) image.data[at + color] = paper[color] + share * (ink[color] - paper[color]);
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}

// The discrete Fourier transform in place, of a power of two (Cooley and Tukey, 1965).
function transform(re, im) {
  const size = re.length;
  for (let i = 1, j = 0; i < size; i++) {
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [re[i], re[j]] = [re[j], re[i]];
      [im[i], im[j]] = [im[j], im[i]];
    }
  }
  for (let half = 1; half < size; half *= 2) {
    for (let k = 0; k < half; k++) {
      const c = Math.cos((-Math.PI * k) / half), s = Math.sin((-Math.PI * k) / half);
      for (let i = k; i < size; i += 2 * half) {
        const other = i + half;
        const a = re[other] * c - im[other] * s, b = re[other] * s + im[other] * c;
        re[other] = re[i] - a;
        im[other] = im[i] - b;
        re[i] += a;
        im[i] += b;
      }
    }
  }
}
