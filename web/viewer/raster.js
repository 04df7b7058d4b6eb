// A raster store: a map of colours that begins with coarse tokens and refines where one looks, and what is alike.

import { cosine, fitColours, paint, quantile, ramp, unit } from "./colours.js";
import { degrees } from "./degrees.js";
import { choice, complain, make, pump, say } from "./main.js";
import { thinned } from "./images.js";

const SAMPLE_CHUNKS = 16;
const MOST_VALUES = 64e6; // of decoded tokens that are kept fine: 256 MB
const MOST_PIXELS = 4096; // along a side of the picture that is saved
const ZOOMS = [1 / 64, 64]; // screen pixels of a token

/**
 * @param {import("../store.js").RasterStore} store
 * @param {HTMLElement} root
 */
export async function showRaster(store, root) {
  const { dimensions: d, grid } = store;
  const [tall, wide] = store.tokensPerChunk;
  const coarsest = store.codec.prior === "hierarchical" ? Math.min(8, deepest(Math.min(tall, grid[0]), Math.min(wide, grid[1]))) : 1;
  let time = store.times.length - 1;
  let chunks = new Map(); // of this date, by "row,column": what is held of a chunk
  let colouring = null;
  let examples = []; // {row, column, sign, vector}
  let mode = "colours";
  let range = [0, 1];
  let cursor = [Math.floor(grid[0] / 2), Math.floor(grid[1] / 2)];
  const camera = { row: grid[0] / 2, column: grid[1] / 2, zoom: 1 };

  // ---- Elements
  const canvas = make("canvas", { tabIndex: 0, role: "application" });
  canvas.setAttribute("aria-label", "Map. Arrow keys move, Enter finds what is alike, Shift and Enter what must differ, plus and minus zoom.");
  const place = make("p", { className: "place" });
  const map = make("div", { className: "map" }, canvas, place);
  const press = (text, title, act) => make("button", { type: "button", title, onclick: act }, text);
  const colours = press("Colours", "Three principal components as red, green and blue", () => turnTo("colours"));
  const alike = press("Similarity", "Cosine with the tokens that were clicked", () => turnTo("alike"));
  const clear = press("Clear", "Forget all examples (Escape)", () => forget());
  const picture = press("Save PNG", "The map as it is shown, of the tokens that were read so far", () => save());
  const scale = make("canvas", { width: 120, height: 1, role: "img", "aria-label": "dark: unlike, light: alike" });
  const [low, high] = [make("span", {}), make("span", {})];
  const legend = make("span", { className: "legend" }, low, scale, high);
  for (let i = 0; i < 120; i++) {
    const context = scale.getContext("2d");
    context.fillStyle = `rgb(${ramp(i / 119).join(" ")})`;
    context.fillRect(i, 0, 1, 1);
  }
  const bar = make("div", { className: "bar" });
  if (store.times.length > 1) {
    const dates = store.times.map((text, i) => [i, text.replace(/T00:00:00(Z|\+00:00)?$/, "")]);
    const dated = choice("Date", dates, (value) => change(Number(value)));
    dated.querySelector("select").value = time;
    bar.append(dated);
  } else bar.append(make("span", { className: "hint" }, store.times[0].slice(0, 10)));
  bar.append(
    make("span", { className: "group" }, colours, alike),
    make("span", { className: "group" }, press("−", "Zoom out", () => zoom(0.5)), press("+", "Zoom in", () => zoom(2)), press("Whole", "Show all (0)", () => fit())),
    clear,
    picture,
    legend,
  );
  const count = make("p", { className: "hint" });
  const keys = make("p", { className: "hint keys" });
  keys.innerHTML =
    "Click finds what is alike, <kbd>Shift</kbd> click what it must not be like. Drag or two fingers move. Keys: arrows, <kbd>Enter</kbd>, <kbd>Shift</kbd> <kbd>Enter</kbd>, <kbd>+</kbd> <kbd>−</kbd> <kbd>0</kbd>, <kbd>Backspace</kbd>, <kbd>Esc</kbd>.";
  root.append(bar, count, map, keys);

  // ---- Chunks
  function held(row, column) {
    const key = `${row},${column}`;
    if (!chunks.has(key)) {
      const [rows, columns] = store.windowOf([time, row, column]);
      chunks.set(key, { row, column, rows, columns, spacing: Infinity, tokens: null, valid: null, canvas: null, state: "", used: 0 });
    }
    return chunks.get(key);
  }

  async function read(chunk, spacing) {
    const date = time;
    const at = [date, chunk.row, chunk.column];
    chunk.state = "reading";
    try {
      const [found, valid] = await Promise.all([store.readCoarse(at, spacing), chunk.valid ?? store.readValid(at)]);
      if (date !== time) return;
      chunk.valid = valid;
      chunk.state = "";
      if (spacing >= chunk.spacing) return;
      chunk.spacing = spacing;
      chunk.tokens = found && found.data;
      chunk.shape = found && found.shape.slice(1, 3);
      if (found) dress(chunk);
      draw();
    } catch (error) {
      if (date !== time) return;
      // What was read coarsely stays; the frame of a finer read may be damaged where its beginning is not.
      chunk.state = "broken";
      draw();
      throw error;
    }
  }

  /** Pixels of a chunk's tokens, of colours or of similarity. */
  function dress(chunk) {
    if (!chunk.tokens || !colouring) return;
    const [y, x] = chunk.shape;
    const pixels = mode === "colours" ? paint(colouring, chunk.tokens) : alikeness(chunk);
    for (let i = 0; i < y * x; i++) if (!anyValid(chunk, Math.floor(i / x), i % x)) pixels[4 * i + 3] = 0;
    chunk.canvas ??= make("canvas");
    [chunk.canvas.width, chunk.canvas.height] = [x, y];
    chunk.canvas.getContext("2d").putImageData(new ImageData(pixels, x, y), 0, 0);
  }

  function alikeness(chunk) {
    const values = similarities(chunk);
    const pixels = new Uint8ClampedArray(4 * values.length);
    values.forEach((value, i) => pixels.set([...ramp((value - range[0]) / (range[1] - range[0])), 255], 4 * i));
    return pixels;
  }

  /** Of each token: the largest cosine with an example, less the largest with a counterexample. */
  function similarities(chunk) {
    if (chunk.scores?.of === examples && chunk.scores.spacing === chunk.spacing) return chunk.scores.values;
    const [like, unlike] = [1, -1].map((sign) => examples.filter((example) => example.sign === sign));
    const most = (some, at) => (some.length ? Math.max(...some.map(({ vector }) => cosine(vector, chunk.tokens, at))) : 0);
    const values = Float32Array.from({ length: chunk.tokens.length / d }, (_, i) => most(like, i * d) - most(unlike, i * d));
    chunk.scores = { of: examples, spacing: chunk.spacing, values };
    return values;
  }

  function anyValid({ valid, spacing, shape }, row, column) {
    const [y, x] = valid.shape;
    for (let r = row * spacing; r < Math.min(y, (row + 1) * spacing); r++) {
      for (let c = column * spacing; c < Math.min(x, (column + 1) * spacing); c++) if (valid.data[r * x + c]) return true;
    }
    return shape === null;
  }

  // ---- What is read next: everything that is seen at the coarsest spacing, then as fine as the screen shows, from the middle
  const load = pump(() => {
    const seen = visible();
    const finest = Math.min(coarsest, 2 ** Math.max(0, Math.floor(Math.log2(1 / camera.zoom))));
    for (const wanted of [coarsest, finest]) {
      const chunk = seen.find((each) => each.spacing > wanted && !each.state);
      if (chunk) return () => read(chunk, Math.min(wanted, deepest(span(chunk.rows), span(chunk.columns)))).finally(drop);
    }
    return null;
  });

  function visible() {
    const { width, height } = canvas;
    const ratio = pixelRatio();
    const reach = [height, width].map((size) => size / ratio / camera.zoom / 2);
    const [first, last] = [-1, 1].map((side) => [
      Math.floor((camera.row + side * reach[0]) / tall),
      Math.floor((camera.column + side * reach[1]) / wide),
    ]);
    const found = [];
    for (let row = Math.max(0, first[0]); row <= Math.min(store.chunks[0] - 1, last[0]); row++) {
      for (let column = Math.max(0, first[1]); column <= Math.min(store.chunks[1] - 1, last[1]); column++) found.push(held(row, column));
    }
    const distance = (chunk) => Math.hypot((chunk.row + 0.5) * tall - camera.row, (chunk.column + 0.5) * wide - camera.column);
    return found.sort((a, b) => distance(a) - distance(b));
  }

  /** Forgets chunks that are out of sight when too much is held. */
  function drop() {
    let total = 0;
    for (const chunk of chunks.values()) total += chunk.tokens?.length ?? 0;
    if (total <= MOST_VALUES) return;
    const seen = new Set(visible());
    for (const [key, chunk] of chunks) {
      if (total <= MOST_VALUES) break;
      if (seen.has(chunk) || !chunk.tokens || chunk.spacing >= coarsest) continue;
      total -= chunk.tokens.length;
      chunks.delete(key);
    }
  }

  // ---- Examples
  async function pick(row, column, sign) {
    if (row < 0 || column < 0 || row >= grid[0] || column >= grid[1]) return;
    const chunk = held(Math.floor(row / tall), Math.floor(column / wide));
    if (chunk.spacing > 1 && chunk.state !== "broken") await read(chunk, 1).catch(complain);
    const [r, c] = [row - chunk.rows[0], column - chunk.columns[0]];
    if (!chunk.tokens || !chunk.valid.data[r * chunk.valid.shape[1] + c]) return say("There is no data here.");
    const at = Math.floor(r / chunk.spacing) * chunk.shape[1] + Math.floor(c / chunk.spacing);
    examples = [...examples, { row, column, sign, vector: unit(chunk.tokens.subarray(at * d, (at + 1) * d)) }];
    turnTo("alike");
    say(`${sign > 0 ? "Alike" : "Unlike"}: row ${row}, column ${column}. ${counted()}`);
  }

  function forget(last = false) {
    examples = last ? examples.slice(0, -1) : [];
    turnTo(examples.length ? "alike" : "colours");
  }

  function counted() {
    const [like, unlike] = [1, -1].map((sign) => examples.filter((example) => example.sign === sign).length);
    if (!examples.length) return "Click a place to see where it looks alike.";
    return `Where it looks like ${like || "no"} ${like === 1 ? "example" : "examples"}${unlike ? ` and not like ${unlike}` : ""}: light is alike, dark is not.`;
  }

  function turnTo(wanted) {
    mode = examples.length ? wanted : "colours";
    rescale();
    colours.setAttribute("aria-pressed", mode === "colours");
    alike.setAttribute("aria-pressed", mode === "alike");
    alike.disabled = clear.disabled = !examples.length;
    legend.hidden = mode !== "alike";
    legend.style.display = mode === "alike" ? "" : "none";
    count.textContent = counted();
    for (const chunk of chunks.values()) dress(chunk);
    draw();
  }

  /** The similarities that are dark and light: of what is held. */
  function rescale() {
    if (mode !== "alike") return;
    const found = [];
    for (const chunk of chunks.values()) {
      if (!chunk.tokens) continue;
      const values = similarities(chunk);
      const step = Math.max(1, Math.floor(values.length / 512));
      for (let i = 0; i < values.length; i += step) {
        if (anyValid(chunk, Math.floor(i / chunk.shape[1]), i % chunk.shape[1])) found.push(values[i]);
      }
    }
    const sorted = Float32Array.from(found).sort();
    range = [quantile(sorted, 0.02), quantile(sorted, 0.995)];
    range[1] = Math.max(range[1], range[0] + 1e-6);
    [low.textContent, high.textContent] = range.map((value) => value.toFixed(2));
  }

  // ---- Drawing
  const pixelRatio = () => globalThis.devicePixelRatio || 1;
  let due = false;
  function draw() {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      render();
      load();
    });
  }

  function toScreen(row, column) {
    const ratio = pixelRatio();
    return [canvas.width / 2 + (column - camera.column) * camera.zoom * ratio, canvas.height / 2 + (row - camera.row) * camera.zoom * ratio];
  }

  function render() {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    const ink = getComputedStyle(canvas).color;
    let [fine, all] = [0, 0];
    for (const chunk of visible()) {
      all++;
      if (chunk.spacing === 1) fine++;
      const [left, top] = toScreen(chunk.rows[0], chunk.columns[0]).map(Math.round);
      const [right, bottom] = toScreen(chunk.rows[1], chunk.columns[1]).map(Math.round);
      if (chunk.canvas) {
        const [y, x] = [span(chunk.rows) / chunk.spacing, span(chunk.columns) / chunk.spacing];
        context.drawImage(chunk.canvas, 0, 0, x, y, left, top, right - left, bottom - top);
      }
      if (chunk.state === "broken") cross(context, left, top, right, bottom, ink);
    }
    for (const example of examples) mark(context, ...toScreen(example.row + 0.5, example.column + 0.5), example.sign);
    if (canvas.matches(":focus-visible")) aimAt(context);
    root.dataset.fine = `${fine}/${all}`;
  }

  function cross(context, left, top, right, bottom, ink) {
    context.strokeStyle = ink;
    context.lineWidth = 2;
    context.setLineDash([6, 5]);
    context.strokeRect(left + 2, top + 2, right - left - 4, bottom - top - 4);
    context.setLineDash([]);
    context.fillStyle = ink;
    context.font = `${13 * pixelRatio()}px system-ui, sans-serif`;
    context.textAlign = "center";
    if (right - left > 70) context.fillText("damaged", (left + right) / 2, (top + bottom) / 2);
  }

  /** A plus or a minus on a disc. */
  function mark(context, x, y, sign) {
    const size = 8 * pixelRatio();
    context.beginPath();
    context.arc(x, y, size, 0, 2 * Math.PI);
    context.fillStyle = sign > 0 ? "#fff" : "#000";
    context.fill();
    context.strokeStyle = sign > 0 ? "#000" : "#fff";
    context.lineWidth = 2 * pixelRatio();
    context.stroke();
    context.beginPath();
    context.moveTo(x - size / 2, y);
    context.lineTo(x + size / 2, y);
    if (sign > 0) {
      context.moveTo(x, y - size / 2);
      context.lineTo(x, y + size / 2);
    }
    context.stroke();
  }

  function aimAt(context) {
    const [x, y] = toScreen(cursor[0], cursor[1]);
    const size = Math.max(camera.zoom * pixelRatio(), 6);
    for (const [width, style] of [[4, "#000"], [2, "#fff"]]) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.strokeRect(x, y, size, size);
    }
  }

  function tell(row, column) {
    if (row < 0 || column < 0 || row >= grid[0] || column >= grid[1]) return void (place.textContent = "");
    const [a, b, c, e, f, g] = store.transform;
    const [x, y] = [a * (column + 0.5) + b * (row + 0.5) + c, e * (column + 0.5) + f * (row + 0.5) + g];
    const digits = Math.hypot(a, e) < 0.1 ? 5 : 0;
    const crs = store.crs && store.crs.length < 20 ? ` (${store.crs})` : "";
    const chunk = chunks.get(`${Math.floor(row / tall)},${Math.floor(column / wide)}`);
    let more = "";
    if (chunk?.valid) {
      const [r, k] = [row - chunk.rows[0], column - chunk.columns[0]];
      if (!chunk.valid.data[r * chunk.valid.shape[1] + k]) more = " · no data";
      else if (mode === "alike" && chunk.tokens) {
        const value = similarities(chunk)[Math.floor(r / chunk.spacing) * chunk.shape[1] + Math.floor(k / chunk.spacing)];
        more = ` · similarity ${value.toFixed(3)}`;
      }
    }
    const [longitude, latitude] = degrees(store.crs, x, y) ?? [];
    if (digits === 0 && latitude !== undefined) more = ` · ${latitude.toFixed(5)}°, ${longitude.toFixed(5)}°${more}`;
    place.textContent = `row ${row}, column ${column} · ${x.toFixed(digits)}, ${y.toFixed(digits)}${crs}${more}`;
  }

  // ---- Movement
  function fit() {
    const ratio = pixelRatio();
    const zoomed = Math.min(canvas.width / grid[1], canvas.height / grid[0]) / ratio;
    Object.assign(camera, { row: grid[0] / 2, column: grid[1] / 2, zoom: zoomed * 0.96 });
    draw();
  }

  /** Zoom with a place of the screen, in CSS pixels from the middle, kept where it is. */
  function zoom(by, [x, y] = [0, 0]) {
    const before = camera.zoom;
    camera.zoom = Math.min(Math.max(before * by, ZOOMS[0]), ZOOMS[1]);
    camera.column += x / before - x / camera.zoom;
    camera.row += y / before - y / camera.zoom;
    draw();
  }

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
    return { offset: [x, y], row: Math.floor(camera.row + y / camera.zoom), column: Math.floor(camera.column + x / camera.zoom) };
  }

  const fingers = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
    if (fingers.size === 1) moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const { row, column } = under(event);
    tell(row, column);
    const old = fingers.get(event.pointerId);
    if (!old) return;
    const other = [...fingers.values()].find((each) => each.pointerId !== event.pointerId);
    const [x, y] = [event.clientX - old.clientX, event.clientY - old.clientY];
    moved += Math.abs(x) + Math.abs(y);
    fingers.set(event.pointerId, event);
    if (moved < 5) return;
    if (other) {
      const apart = (each) => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY);
      zoom(apart(event) / Math.max(apart(old), 1), under(other).offset);
    } else {
      camera.column -= x / camera.zoom;
      camera.row -= y / camera.zoom;
    }
    draw();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (fingers.size === 1 && moved < 5) {
      const { row, column } = under(event);
      cursor = [row, column];
      pick(row, column, event.shiftKey ? -1 : 1);
    }
    fingers.delete(event.pointerId);
  });
  canvas.addEventListener("pointercancel", (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(2 ** (-event.deltaY / 300), under(event).offset);
  });
  for (const event of ["focus", "blur"]) canvas.addEventListener(event, draw);
  canvas.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 10 : 1;
    const move = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] }[event.key];
    if (move) {
      cursor = cursor.map((value, axis) => Math.min(Math.max(value + move[axis], 0), grid[axis] - 1));
      const [x, y] = toScreen(...cursor);
      if (x < 0 || y < 0 || x > canvas.width || y > canvas.height) [camera.row, camera.column] = cursor;
      tell(...cursor);
      say(place.textContent);
      draw();
    } else if (event.key === "Enter") pick(...cursor, event.shiftKey ? -1 : 1);
    else if (event.key === "+" || event.key === "=") zoom(2);
    else if (event.key === "-") zoom(0.5);
    else if (event.key === "0") fit();
    else if (event.key === "Backspace") forget(true);
    else if (event.key === "Escape") forget();
    else return;
    event.preventDefault();
  });

  // ---- Dates and pictures
  function change(wanted) {
    time = wanted;
    chunks = new Map();
    draw();
  }

  function save() {
    const step = Math.max(1, Math.ceil(Math.max(...grid) / MOST_PIXELS));
    const whole = make("canvas", { width: Math.ceil(grid[1] / step), height: Math.ceil(grid[0] / step) });
    const context = whole.getContext("2d");
    context.imageSmoothingEnabled = false;
    for (const chunk of chunks.values()) {
      if (!chunk.canvas) continue;
      const [y, x] = [span(chunk.rows), span(chunk.columns)];
      const target = [chunk.columns[0], chunk.rows[0], x, y].map((value) => value / step);
      context.drawImage(chunk.canvas, 0, 0, x / chunk.spacing, y / chunk.spacing, ...target);
    }
    whole.toBlob((blob) => {
      const link = make("a", { href: URL.createObjectURL(blob), download: `${document.title}-${store.times[time].slice(0, 10)}-${mode}.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }

  /** Colours of all dates: fitted to coarse tokens of chunks of this date. */
  async function colour() {
    const all = Array.from({ length: store.chunks[0] * store.chunks[1] }, (_, i) => [Math.floor(i / store.chunks[1]), i % store.chunks[1]]);
    const step = Math.ceil(all.length / SAMPLE_CHUNKS);
    const some = all.filter((_, i) => i % step === 0).map(([row, column]) => held(row, column));
    const sampled = Math.min(coarsest, 4);
    await Promise.all(some.map((chunk) => read(chunk, Math.min(sampled, deepest(span(chunk.rows), span(chunk.columns)))).catch(complain)));
    const parts = some.filter((chunk) => chunk.tokens).map((chunk) => {
      const kept = [];
      for (let i = 0; i < chunk.shape[0] * chunk.shape[1]; i++) {
        if (anyValid(chunk, Math.floor(i / chunk.shape[1]), i % chunk.shape[1])) kept.push(...chunk.tokens.subarray(i * d, (i + 1) * d));
      }
      return Float32Array.from(kept);
    });
    if (!parts.some((part) => part.length)) throw new Error("no token of the chunks that were tried can be read or saw data");
    colouring = fitColours(thinned(parts, d), d);
  }

  new ResizeObserver(() => {
    const first = canvas.width === 300 && canvas.height === 150;
    const ratio = pixelRatio();
    [canvas.width, canvas.height] = [map.clientWidth, map.clientHeight].map((size) => Math.round(size * ratio));
    if (first) fit();
    else draw();
  }).observe(map);
  await colour();
  turnTo("colours");
}

const span = ([first, last]) => last - first;

/** The coarsest spacing of a grid: the power of 2 that covers it. */
const deepest = (y, x) => 2 ** Math.ceil(Math.log2(Math.max(y, x, 1)));
