"use strict";
// Shows one head at one moment. States: what a token is to a head after `read` tokens were read.
(() => {
  const trace = JSON.parse(document.getElementById("trace").textContent);
  const total = trace.tokens.length;
  const spans = [...document.querySelectorAll("#text .tokens span")];
  const buttons = [...document.querySelectorAll("#heads button")];
  const slider = document.getElementById("time");
  const play = document.getElementById("play");
  let chosen = 0;
  let timer = null;

  function stateOf(head, position, read) {
    const gone = head.gone_at[position];
    if (position >= read) return "unread";
    if (gone !== null && gone <= read) return "forgotten";
    return read - 1 - position <= trace.window_tokens ? "window" : "survivor";
  }

  function describe(head, read) {
    const count = { window: 0, survivor: 0, forgotten: 0, unread: 0 };
    for (let position = 0; position < read; position++) count[stateOf(head, position, read)]++;
    const alive = count.window + count.survivor;
    return `Layer ${head.layer}, head ${head.head}, after ${read} tokens: ${alive} alive ` +
      `(${count.window} in the window, ${count.survivor} survivors), ${count.forgotten} forgotten; ` +
      `factor ${(read / alive).toFixed(1)}.`;
  }

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const parse = (name) => {
      const hex = style.getPropertyValue(`--${name}`).trim().slice(1);
      const full = hex.length === 3 ? [...hex].map((digit) => digit + digit).join("") : hex;
      return [0, 2, 4].map((at) => parseInt(full.slice(at, at + 2), 16));
    };
    return { window: parse("accent"), survivor: parse("survivor"), forgotten: parse("panel"), unread: parse("unread") };
  }

  function paint(canvas, width, height, stateAt) {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const palette = colours();
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const [red, green, blue] = palette[stateAt(row, column)];
        image.data.set([red, green, blue, 255], 4 * (row * width + column));
      }
    }
    context.putImageData(image, 0, 0);
    return context;
  }

  const headsRaster = document.getElementById("heads-raster");
  const timeRaster = document.getElementById("time-raster");
  const thick = 6; // canvas rows for each head, the last of them the gap below it

  function paintHeads(read) {
    const context = paint(headsRaster, total, trace.heads.length * thick, (row, column) =>
      row % thick === thick - 1 ? "forgotten" : stateOf(trace.heads[Math.floor(row / thick)], column, read));
    context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
    context.fillRect(0, chosen * thick + thick - 1, total, 1);
  }

  function paintTime() {
    paint(timeRaster, total, total, (row, column) => stateOf(trace.heads[chosen], column, row + 1));
  }

  function show() {
    const read = Number(slider.value);
    const head = trace.heads[chosen];
    spans.forEach((span, position) => { span.className = stateOf(head, position, read); });
    document.getElementById("read").textContent = String(read);
    document.getElementById("status").textContent = describe(head, read);
    paintHeads(read);
  }

  function choose(index) {
    chosen = index;
    buttons.forEach((button, place) => {
      button.setAttribute("aria-pressed", String(place === index));
      button.tabIndex = place === index ? 0 : -1;
    });
    paintTime();
    show();
  }

  function explain(position) {
    const read = Number(slider.value);
    const holding = trace.heads.filter((head) => {
      const state = stateOf(head, position, read);
      return state === "window" || state === "survivor";
    });
    const named = holding.map((head) => `${head.layer}/${head.head}`).join(", ");
    spans.forEach((span) => span.classList.remove("chosen"));
    spans[position].classList.add("chosen");
    const text = JSON.stringify(trace.tokens[position]);
    document.getElementById("detail").textContent = position >= read
      ? `Token ${position} ${text} has not been read yet.`
      : `Token ${position} ${text}: alive in ${holding.length} of ${trace.heads.length} heads` +
        (holding.length ? ` (layer/head ${named}).` : ".");
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "play";
    play.setAttribute("aria-pressed", "false");
  }

  function start() {
    if (Number(slider.value) >= total) slider.value = "1";
    play.textContent = "pause";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      slider.value = String(Number(slider.value) + 1);
      show();
      if (Number(slider.value) >= total) stop();
    }, 40);
  }

  buttons.forEach((button, index) => button.addEventListener("click", () => choose(index)));
  document.getElementById("heads").addEventListener("keydown", (event) => {
    const here = trace.heads[chosen];
    const [layer, head] = {
      ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0],
    }[event.key] || [0, 0];
    const next = layer || head
      ? trace.heads.findIndex((other) => other.layer === here.layer + layer && other.head === here.head + head)
      : -1;
    const step = head && next < 0 ? chosen + head : next; // past a layer's end: the next layer
    if (step < 0 || step >= trace.heads.length) return;
    event.preventDefault();
    choose(step);
    buttons[step].focus();
  });
  slider.addEventListener("input", () => { stop(); show(); });
  play.addEventListener("click", () => (timer === null ? start() : stop()));
  spans.forEach((span, position) => {
    span.addEventListener("pointerenter", () => explain(position));
    span.addEventListener("click", () => explain(position));
  });
  headsRaster.addEventListener("click", (event) => {
    choose(Math.min(trace.heads.length - 1, Math.floor(event.offsetY / headsRaster.clientHeight * trace.heads.length)));
  });
  timeRaster.addEventListener("click", (event) => {
    stop();
    slider.value = String(1 + Math.floor(event.offsetY / timeRaster.clientHeight * total));
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { paintTime(); show(); });
  const numKept = trace.heads.map((head) => head.gone_at.filter((gone) => gone === null).length);
  choose(numKept.indexOf(Math.max(...numKept))); // the head with the most to show
})();
