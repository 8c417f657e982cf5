"use strict";
// The viewer of a report. All data lies in the page: #report holds the numbers, #image-N one packed image each.
(() => {
  const report = JSON.parse(document.getElementById("report").textContent);
  const $ = (id) => document.getElementById(id);
  const viewable = report.slices.map((_, index) => index).filter((index) => report.slices[index].images);
  if (!viewable.length) { $("viewer").hidden = true; return; }

  const state = {
    mode: "swipe", first: report.shown[0], second: report.shown[1], place: 0, split: 0.5, showSecond: false,
    lower: 0, upper: 1, range: report.difference_range, order: [], drawn: 0,
    circle: null, around: {x: 0.5, y: 0.5, r: 0.06},  // centre in parts of width and height, radius in parts of the width
  };
  let timer = null;

  // ---- packed images (see page.py) ----
  const cache = new Map();
  async function unpack(id, height, width) {
    const packed = Uint8Array.from(atob($("image-" + id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const raw = new Uint8Array(await new Response(stream).arrayBuffer());
    const pixels = height * width, q = new Uint16Array(pixels);
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const a = x ? q[i - 1] : 0, b = y ? q[i - width] : 0, c = x && y ? q[i - width - 1] : 0;
        const low = Math.min(a, b), high = Math.max(a, b);
        const predicted = c >= high ? low : c <= low ? high : a + b - c;
        const folded = raw[i] * 256 + raw[pixels + i];
        q[i] = predicted + (folded & 1 ? -((folded + 1) >> 1) : folded >> 1);
      }
    }
    return Float32Array.from(q, (step) => report.offset + report.step * step);
  }
  async function load(index, row) {  // one array per channel
    const key = index + "/" + row;
    if (!cache.has(key)) {
      const derived = report.derived[row], {ids, height, width} = report.slices[index].images;
      const promise = derived
        ? load(index, derived.of).then((channels) => channels.map((channel) =>
          channel.map((value) => Math.max(value - derived.minus, derived.lower))))
        : Promise.all(ids[row].map((id) => unpack(id, height, width)));
      cache.set(key, promise);
      if (cache.size > 24) cache.delete(cache.keys().next().value);
    }
    return cache.get(key);
  }

  // ---- drawing ----
  const grey = (value) => 255 * (value - state.lower) / (state.upper - state.lower);
  const mean = (channels, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length;
  function diverging(t) {  // blue - white - red
    t = Math.max(-1, Math.min(1, t));
    const [r, g, b] = t < 0 ? [33, 102, 172] : [178, 24, 43], strength = Math.abs(t);
    return [255 + (r - 255) * strength, 255 + (g - 255) * strength, 255 + (b - 255) * strength];
  }
  function paint(canvas, height, width, colour) {
    canvas.width = width;
    canvas.height = height;
    canvas.parentElement.style.maxWidth = `calc(72vh * ${width / height})`;
    const context = canvas.getContext("2d"), image = context.createImageData(width, height);
    for (let i = 0; i < height * width; i++) {
      const [r, g, b] = colour(i);
      image.data[4 * i] = r;
      image.data[4 * i + 1] = g;
      image.data[4 * i + 2] = b;
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }
  const OTHER = [255, 255, 255];  // what is no class
  const shown = (channels) => report.colours.length
    ? (i) => report.colours[Math.round(channels[0][i])] || OTHER
    : (i) => channels.length === 3
      ? [grey(channels[0][i]), grey(channels[1][i]), grey(channels[2][i])]
      : Array(3).fill(grey(mean(channels, i)));

  let current = null;
  async function draw() {
    const index = state.order[state.place], slice = report.slices[index], {height, width, factor} = slice.images;
    const ticket = ++state.drawn;
    const [first, second] = await Promise.all([load(index, state.first), load(index, state.second)]);
    if (ticket !== state.drawn) return;  // something newer was asked for meanwhile
    current = {first, second, height, width};
    const canvas = $("canvas");
    $("canvas-2").parentElement.hidden = state.mode !== "side";
    $("divider").hidden = state.mode !== "swipe";
    $("colourbar").hidden = $("difference-control").hidden = state.mode !== "difference";
    if (state.mode === "difference") {
      paint(canvas, height, width, (i) => diverging((mean(first, i) - mean(second, i)) / state.range));
    } else if (state.mode === "swipe") {
      const edge = Math.round(state.split * width), a = shown(first), b = shown(second);
      paint(canvas, height, width, (i) => (i % width < edge ? a(i) : b(i)));
      $("divider").style.left = `${100 * edge / width}%`;
    } else {
      paint(canvas, height, width, shown(state.mode === "flicker" && state.showSecond ? second : first));
      if (state.mode === "side") paint($("canvas-2"), height, width, shown(second));
    }
    const names = {
      swipe: `left: ${state.first} · right: ${state.second}`, side: `${state.first} · ${state.second}`,
      flicker: state.showSecond ? state.second : state.first, difference: `${state.first} − ${state.second}`,
    };
    $("shown").textContent = names[state.mode];
    const told = state.second in slice.values ? state.second : state.first, values = slice.values[told] || {};
    $("caption").textContent = `${slice.key} (${slice.series}), ${state.place + 1} of ${state.order.length}`
      + (factor > 1 ? `, shown at 1/${factor} of its size` : "") + " · " + told + ": "
      + report.metrics.filter((name) => name in values).map((name) => `${report.labels[name]} ${values[name]}`).join(", ");
    $("place").value = state.place;
    $("lower-upper").textContent = `${+state.lower.toFixed(4)} … ${+state.upper.toFixed(4)} ${report.unit}`;
    $("range-value").textContent = `± ${+state.range.toPrecision(3)} ${report.unit}`;
    document.querySelectorAll("[data-slice]").forEach((line) =>
      line.classList.toggle("current", +line.dataset.slice === index));
    $("viewer").dataset.ready = ticket;
    if (state.circle) measure();
  }

  // ---- a circle measured in all images ----
  function inside(height, width) {  // the pixels whose centres lie within the circle
    const {x, y, r} = state.circle, pixels = [];
    const middle = [y * height, x * width], radius = r * width;
    const first = (centre) => Math.max(0, Math.floor(centre - radius)), last = (centre) => Math.ceil(centre + radius);
    for (let row = first(middle[0]); row < Math.min(height, last(middle[0])); row++) {
      for (let column = first(middle[1]); column < Math.min(width, last(middle[1])); column++) {
        if (Math.hypot(row + 0.5 - middle[0], column + 0.5 - middle[1]) <= radius) pixels.push(row * width + column);
      }
    }
    return pixels;
  }
  function line(cells, tag = "td") {
    const row = document.createElement("tr");
    for (const text of cells) row.append(Object.assign(document.createElement(tag), {textContent: text}));
    return row;
  }
  async function measure() {
    $("measured").hidden = !state.circle;
    document.querySelector(".screens").classList.toggle("measuring", Boolean(state.circle));
    $("region").setAttribute("aria-pressed", Boolean(state.circle));
    document.querySelectorAll(".circle").forEach((one) => {
      one.hidden = !state.circle;
      if (!state.circle) return;
      const {x, y, r} = state.circle;
      Object.assign(one.style, {left: `${100 * x}%`, top: `${100 * y}%`, width: `${200 * r}%`});
    });
    if (!state.circle) return;
    $("radius").value = state.circle.r;
    const index = state.order[state.place], {height, width, factor} = report.slices[index].images;
    const pixels = inside(height, width);
    const ticket = state.measured = (state.measured || 0) + 1;
    const images = await Promise.all(report.images.map((row) => load(index, row)));
    if (ticket !== state.measured) return;
    const unit = report.unit && ` / ${report.unit}`, count = pixels.length, spacing = report.slices[index].spacing;
    const lines = images.map((channels, number) => {
      const average = pixels.reduce((sum, i) => sum + mean(channels, i), 0) / count;
      const squares = pixels.reduce((sum, i) => sum + (mean(channels, i) - average) ** 2, 0);
      return line([report.images[number], count ? average.toFixed(2) : "–",
        count > 1 && factor === 1 ? Math.sqrt(squares / (count - 1)).toFixed(2) : "–"]);
    });
    $("means").replaceChildren(line(["in the circle", `mean${unit}`, `standard deviation${unit}`], "th"), ...lines);
    const across = spacing && (2 * state.circle.r * width * factor * spacing[1]).toFixed(1);
    $("circle-size").textContent = `${count} pixels` + (spacing ? `, ${across} mm across` : "")
      + `, centre in row ${Math.floor(state.circle.y * height * factor)}, column ${Math.floor(state.circle.x * width * factor)}`
      + (factor > 1 ? "; no standard deviation: this slice is shown reduced, which averages noise away" : "");
    $("measured").dataset.ready = ticket;
  }

  // ---- controls ----
  function setWindow(lower, upper) {
    [state.lower, state.upper] = [lower, Math.max(upper, lower + report.step)];
    $("level").value = (state.lower + state.upper) / 2;
    $("width").value = state.upper - state.lower;
    draw();
  }
  function setMode(mode) {
    state.mode = mode;
    state.showSecond = false;
    clearInterval(timer);
    if (mode === "flicker") timer = setInterval(() => { state.showSecond = !state.showSecond; draw(); }, 600);
    document.querySelectorAll("[data-mode]").forEach((button) =>
      button.setAttribute("aria-pressed", button.dataset.mode === mode));
    draw();
  }
  function go(place) {
    state.place = (place + state.order.length) % state.order.length;
    draw();
  }
  function sort() {
    const order = $("order").value === "worst" ? report.worst_first : viewable;
    state.order = order.filter((index) => report.slices[index].images);
    go(0);
  }
  for (const [id, name] of [["first", "first"], ["second", "second"]]) {
    for (const row of report.images) $(id).add(new Option(row, row, false, row === state[name]));
    $(id).onchange = () => { state[name] = $(id).value; draw(); };
  }
  for (const {name, lower, upper} of report.windows) {
    const button = document.createElement("button");
    button.textContent = name;
    button.title = `${lower} … ${upper} ${report.unit}`;
    button.onclick = () => setWindow(lower, upper);
    $("presets").append(button);
  }
  report.colours.forEach((colour, number) => {
    const one = Object.assign(document.createElement("span"), {textContent: number});
    one.style.borderColor = `rgb(${colour})`;
    $("classes").append(one);
  });
  $("classes").hidden = !report.colours.length;
  $("window").hidden = Boolean(report.colours.length);
  const reach = report.windows[0].upper - report.windows[0].lower;
  Object.assign($("level"), {min: report.windows[0].lower, max: report.windows[0].upper, step: reach / 1000});
  Object.assign($("width"), {min: reach / 1000, max: reach, step: reach / 1000});
  for (const id of ["level", "width"]) {
    $(id).oninput = () => setWindow($("level").value - $("width").value / 2, +$("level").value + $("width").value / 2);
  }
  $("range").oninput = () => { state.range = report.difference_range * 10 ** $("range").value; draw(); };
  Object.assign($("place"), {min: 0, max: viewable.length - 1, step: 1});
  $("place").oninput = () => go(+$("place").value);
  $("order").onchange = sort;
  $("previous").onclick = () => go(state.place - 1);
  $("next").onclick = () => go(state.place + 1);
  document.querySelectorAll("[data-mode]").forEach((button) => { button.onclick = () => setMode(button.dataset.mode); });
  document.querySelectorAll("[data-slice]").forEach((line) => {
    line.onclick = () => {
      const place = state.order.indexOf(+line.dataset.slice);
      if (place >= 0) { go(place); $("viewer").scrollIntoView(); }
    };
  });
  document.addEventListener("keydown", (event) => {
    if (["INPUT", "SELECT"].includes(event.target.tagName)) return;
    if (event.key === "ArrowLeft") go(state.place - 1);
    if (event.key === "ArrowRight") go(state.place + 1);
  });
  const point = (event) => {
    const box = event.target.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  $("region").onclick = () => {
    if (state.circle) state.around = state.circle;
    state.circle = state.circle ? null : state.around;
    measure();
  };
  $("radius").oninput = () => { state.circle = {...state.circle, r: +$("radius").value}; measure(); };
  function moved(event) {
    const [right, down] = point(event);
    if (state.circle && event.buttons) {  // a drag sizes the circle that a press has placed
      const radius = Math.hypot(right - state.circle.x, (down - state.circle.y) * current.height / current.width);
      if (radius > 0.005) { state.circle = {...state.circle, r: Math.min(radius, 0.5)}; measure(); }
    } else if (state.mode === "swipe" && !state.circle && (event.buttons || event.pointerType === "touch")) {
      state.split = right;
      draw();
    }
    if (!current) return;
    const x = Math.floor(right * current.width), y = Math.floor(down * current.height), i = y * current.width + x;
    if (x < 0 || y < 0 || x >= current.width || y >= current.height) return;
    $("pixel").textContent = `row ${y}, column ${x}: ${state.first} ${+mean(current.first, i).toFixed(3)}, `
      + `${state.second} ${+mean(current.second, i).toFixed(3)} ${report.unit}`;
  }
  function pressed(event) {
    const [x, y] = point(event);
    if (state.circle) { state.circle = {...state.circle, x, y}; measure(); }
    else if (state.mode === "swipe") { state.split = x; draw(); }
  }
  for (const id of ["canvas", "canvas-2"]) Object.assign($(id), {onpointermove: moved, onpointerdown: pressed});

  paint($("bar"), 1, 201, (i) => diverging(i / 100 - 1));
  $("bar").parentElement.style.maxWidth = "";
  const start = report.windows[Math.min(1, report.windows.length - 1)];
  [state.lower, state.upper] = [start.lower, start.upper];
  sort();
  setWindow(start.lower, start.upper);
  setMode("swipe");
})();
