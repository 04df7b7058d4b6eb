// A store of images: a grid of token maps in colours, filters, and the nearest neighbours of the one that is clicked.

import { cosine, fitColours, paint, unit } from "./colours.js";
import { choice, complain, make, pump, say } from "./main.js";

const PAGE = 60; // tiles
const CANDIDATES = 47; // by coarse vectors; then exact
const SAMPLE_CHUNKS = 8;
const SAMPLE_VALUES = 16e6;
const SAMPLE_TOKENS = 2048;
const SPLITS = ["no split", "train", "val", "test"];

/**
 * @param {import("../store.js").ImageStore} store
 * @param {HTMLElement} root
 * @param {{images: string}} options `images`: URL of an image with {name} or {index} in it, or ""
 */
export async function showImages(store, root, { images: pattern }) {
  const { images: count, dimensions: d, grid } = store;
  const side = (name) => store.side(name).catch((error) => void complain(error));
  const [names, labels, split] = await Promise.all(["names", "labels", "split"].map(side));
  const classes = store.attributes.classes ?? [];
  const nameOf = (i) => names?.[i] || `image ${i}`;
  const labelOf = (i) => (labels && labels[i] >= 0 ? (classes[labels[i]] ?? `class ${labels[i]}`) : "");

  // ---- What is known of each image: its mean token, and its pixels once its chunk was decoded.
  const pooled = new Float32Array(count * d);
  const known = new Uint8Array(store.chunks); // 0 nothing, 1 coarse, 2 exact
  const broken = new Set();
  const pixels = new Map();
  const reading = new Map();
  const chunkOf = (i) => Math.floor(i / store.imagesPerChunk);
  // Tokens differ most by their place in the image: colours show what is left without the mean of the place.
  const { places, tokens: sampled } = await sample(store);
  const colouring = fitColours(sampled, d);
  const placeless = new Float32Array(d);
  means(places, 1, grid[0] * grid[1], d, placeless);

  function decode(chunk) {
    if (!reading.has(chunk)) {
      const found = store.read(chunk).then(
        ({ data }) => {
          const [first, last] = store.imagesOf(chunk);
          means(data, last - first, grid[0] * grid[1], d, pooled.subarray(first * d, last * d));
          for (let k = 0; k < data.length; k++) data[k] -= places[k % places.length];
          pixels.set(chunk, paint(colouring, data));
          known[chunk] = 2;
        },
        (error) => {
          broken.add(chunk);
          complain(error);
        },
      );
      reading.set(chunk, found);
    }
    return reading.get(chunk);
  }

  async function coarse(chunk) {
    if (known[chunk]) return;
    if (store.codec.prior !== "hierarchical") return decode(chunk);
    try {
      const { data } = await store.readCoarse(chunk, 2 ** Math.ceil(Math.log2(Math.max(...grid))));
      if (!known[chunk]) pooled.set(data, store.imagesOf(chunk)[0] * d);
      known[chunk] ||= 1;
    } catch (error) {
      broken.add(chunk);
      known[chunk] ||= 0;
      complain(error);
    }
  }

  // ---- Elements
  const filter = { text: "", label: "", split: "", order: labels ? "spread" : "stored" };
  let query = null;
  let scores = new Map();
  let page = 0;
  const list = make("ul", { className: "grid" });
  const position = make("small", {});
  const before = make("button", { type: "button", onclick: () => turn(-1) }, "‹ Previous");
  const after = make("button", { type: "button", onclick: () => turn(1) }, "Next ›");
  const asked = make("div", {});
  const set = (key) => (value) => {
    filter[key] = value;
    page = 0;
    show();
  };
  const search = make("input", { type: "search", placeholder: "Part of a name", oninput: () => set("text")(search.value) });
  search.setAttribute("aria-label", "Names that contain");
  const bar = make("div", { className: "bar", role: "search" }, search);
  if (labels) {
    const counts = new Map();
    for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
    const entries = [...counts.keys()].sort((a, b) => a - b);
    const text = (label) => `${label < 0 ? "no label" : (classes[label] ?? label)} (${counts.get(label)})`;
    bar.append(choice("Label", [["", "all"], ...entries.map((label) => [label, text(label)])], set("label")));
    bar.append(choice("Order", [["spread", "some of each label"], ["stored", "as stored"]], set("order")));
  }
  if (split?.some((value) => value > 0)) {
    const entries = [...new Set(split)].sort().map((value) => [value, SPLITS[value] ?? value]);
    bar.append(choice("Split", [["", "all"], ...entries], set("split")));
  }
  const pager = make("div", { className: "bar" }, position, make("span", { className: "push" }), before, after);
  root.append(asked, bar, list, pager);

  // ---- Which images are shown
  function matching() {
    const text = filter.text.toLowerCase();
    const fits = (i) =>
      (!text || nameOf(i).toLowerCase().includes(text)) &&
      (filter.label === "" || labels[i] === Number(filter.label)) &&
      (filter.split === "" || split[i] === Number(filter.split));
    if (query !== null) return [...scores.keys()].filter(fits);
    const found = Array.from({ length: count }, (_, i) => i).filter(fits);
    return filter.order === "spread" ? spread(found, labels) : found;
  }

  function turn(by) {
    page += by;
    show();
    root.querySelector(".tile")?.focus();
    root.scrollIntoView({ block: "start" });
  }

  function show() {
    const found = matching();
    const shown = found.slice(page * PAGE, (page + 1) * PAGE);
    const focused = list.contains(document.activeElement) && document.activeElement.dataset.image;
    list.replaceChildren(...shown.map(tile));
    if (focused) list.querySelector(`[data-image="${focused}"]`)?.focus();
    position.textContent = shown.length
      ? `${page * PAGE + 1} to ${page * PAGE + shown.length} of ${found.length.toLocaleString("en")}${query === null ? "" : " nearest"}`
      : "No image matches.";
    before.disabled = page === 0;
    after.disabled = (page + 1) * PAGE >= found.length;
    // Candidates come and go while coarse vectors arrive: only those that stay are decoded.
    if (query === null || exact) wanted.unshift(...new Set(shown.map(chunkOf)));
    load();
  }

  function tile(i) {
    const label = labelOf(i);
    const value = scores.get(i);
    const second = query === null ? nameOf(i).split("/").pop() : i === query ? "this one" : `cosine ${value.toFixed(3)}`;
    const button = make("button", { type: "button", className: "tile", title: nameOf(i), onclick: () => ask(i) });
    button.dataset.image = i;
    button.append(picture(i), make("b", {}, label || nameOf(i)), make("span", {}, second));
    return make("li", {}, draw(button));
  }

  function picture(i) {
    const canvas = make("canvas", { width: grid[1], height: grid[0], role: "img", "aria-label": "" });
    const box = make("span", { className: "picture" }, canvas);
    if (pattern) {
      const src = pattern.replace("{name}", nameOf(i).split("/").map(encodeURIComponent).join("/")).replace("{index}", i);
      const image = make("img", { src, alt: "", loading: "lazy", onerror: () => image.remove() });
      box.append(image);
    }
    return box;
  }

  /** Fills the canvas of an element of an image with what is known of it. */
  function draw(element) {
    const i = Number(element.dataset.image);
    const chunk = chunkOf(i);
    const canvas = element.querySelector("canvas");
    const context = canvas.getContext("2d");
    const tokens = grid[0] * grid[1];
    if (pixels.has(chunk)) {
      const start = 4 * tokens * (i - store.imagesOf(chunk)[0]);
      context.putImageData(new ImageData(pixels.get(chunk).slice(start, start + 4 * tokens), grid[1], grid[0]), 0, 0);
      element.dataset.drawn = "exact";
    } else if (known[chunk]) {
      context.fillStyle = `rgb(${paint(colouring, pooled.slice(i * d, (i + 1) * d).map((value, k) => value - placeless[k])).slice(0, 3).join(" ")})`;
      context.fillRect(0, 0, grid[1], grid[0]);
    }
    element.classList.toggle("broken", broken.has(chunk) && !pixels.has(chunk));
    return element;
  }

  const redraw = (chunk) => {
    for (const element of root.querySelectorAll("[data-image]")) if (chunkOf(Number(element.dataset.image)) === chunk) draw(element);
  };

  // ---- What is read: the chunks of the tiles that are shown, then the coarse vectors of all others
  const wanted = [];
  let next = 0;
  const load = pump(() => {
    while (wanted.length) {
      const chunk = wanted.shift();
      if (!reading.has(chunk)) return () => decode(chunk).then(() => redraw(chunk));
    }
    if (next >= store.chunks) return null;
    const chunk = next++;
    return () =>
      coarse(chunk).then(() => {
        redraw(chunk);
        if (query !== null && !exact) rank();
        else progress();
      });
  });

  // ---- Neighbours
  let exact = false;
  async function ask(i) {
    query = i;
    exact = false;
    page = 0;
    const why = make("p", { className: "hint" });
    const box = make("div", { className: "query" }, picture(i));
    box.dataset.image = i;
    const clear = make("button", { type: "button", onclick: forget }, "Back to all images");
    box.append(make("div", {}, make("h2", {}, labelOf(i) || nameOf(i)), make("p", { className: "hint" }, nameOf(i)), why, make("div", { className: "bar" }, clear)));
    asked.replaceChildren(box);
    draw(box);
    box.scrollIntoView({ block: "nearest" });
    clear.focus({ preventScroll: true });
    progress();
    await decode(chunkOf(i));
    if (query !== i) return;
    rank();
    await settled();
    if (query !== i) return;
    await Promise.all([...new Set([...scores.keys()].map(chunkOf))].map(decode));
    if (query !== i) return;
    exact = true;
    rank();
    const near = [...scores.keys()].filter((other) => other !== i).slice(0, 10);
    const same = near.filter((other) => labels && labels[other] === labels[i]).length;
    root.dataset.neighbours = near.join(" ");
    progress();
    say(`${near.length} nearest of ${nameOf(i)}: ${near.map((other) => labelOf(other) || nameOf(other)).join(", ")}`);
    if (labelOf(i)) why.append(` ${same} of the 10 nearest have the same label.`);
  }

  function forget() {
    const from = query;
    query = null;
    scores = new Map();
    page = 0;
    delete root.dataset.neighbours;
    asked.replaceChildren();
    show();
    (root.querySelector(`[data-image="${from}"]`) ?? root.querySelector(".tile"))?.focus();
  }

  /** Once every chunk is known at least coarsely. */
  const settled = async () => {
    while (next < store.chunks || known.some((value, chunk) => !value && !broken.has(chunk))) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };

  let last = 0;
  function rank() {
    if (!exact && performance.now() - last < 300) return;
    last = performance.now();
    const direction = unit(pooled.subarray(query * d, (query + 1) * d));
    const found = [];
    for (let i = 0; i < count; i++) {
      if (known[chunkOf(i)] && (!exact || scores.has(i))) found.push([i, cosine(direction, pooled, i * d)]);
    }
    found.sort((a, b) => Number(b[0] === query) - Number(a[0] === query) || b[1] - a[1] || a[0] - b[0]);
    scores = new Map(found.slice(0, CANDIDATES + 1));
    show();
    progress();
  }

  function progress() {
    const hint = asked.querySelector(".query p:last-of-type");
    if (!hint || query === null) return;
    const ready = known.reduce((sum, value) => sum + (value > 0), 0);
    hint.textContent = exact
      ? `Nearest of ${count.toLocaleString("en")} images by the cosine of their mean tokens.`
      : ready + broken.size < store.chunks
        ? `Comparing coarse vectors: ${Math.round((100 * ready) / store.chunks)} % of the store.`
        : "Decoding the nearest …";
  }

  list.addEventListener("keydown", (event) => {
    const tiles = [...list.querySelectorAll(".tile")];
    const at = tiles.indexOf(document.activeElement);
    const across = tiles.filter((each) => each.offsetTop === tiles[0].offsetTop).length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
    if (at < 0 || !step) return;
    event.preventDefault();
    tiles[at + step]?.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && query !== null) forget();
  });
  show();
}

/** Of chunks spread over the store: the mean of each place's tokens [y, x, d], and a sample without it [n, d]. */
async function sample(store) {
  const size = store.grid[0] * store.grid[1] * store.dimensions;
  const most = Math.max(1, Math.min(SAMPLE_CHUNKS, Math.floor(SAMPLE_VALUES / (size * store.imagesPerChunk))));
  const step = Math.ceil(store.chunks / most);
  const parts = [];
  for (let chunk = 0; chunk < store.chunks; chunk += step) {
    await store.read(chunk).then(({ data }) => parts.push(data), complain);
  }
  if (!parts.length) throw new Error("none of the chunks that were tried can be read");
  const images = parts.reduce((sum, part) => sum + part.length / size, 0);
  const sums = new Float64Array(size);
  for (const part of parts) for (let start = 0; start < part.length; start += size) for (let k = 0; k < size; k++) sums[k] += part[start + k];
  const places = Float32Array.from(sums, (sum) => sum / images);
  for (const part of parts) for (let k = 0; k < part.length; k++) part[k] -= places[k % size];
  return { places, tokens: thinned(parts, store.dimensions, size / store.dimensions) };
}

/** Every so many tokens of all parts, so that a sample is left; of images with so many tokens, of all places. */
export function thinned(parts, d, places = 1) {
  const total = parts.reduce((sum, part) => sum + part.length / d, 0);
  let step = Math.ceil(total / SAMPLE_TOKENS);
  while (divisor(step, places) > 1) step++;
  const found = new Float32Array(Math.ceil(total / step) * d);
  let [seen, kept] = [0, 0];
  for (const part of parts) {
    for (let i = 0; i < part.length; i += d) {
      if (seen++ % step === 0) found.set(part.subarray(i, i + d), d * kept++);
    }
  }
  return found;
}

const divisor = (a, b) => (b ? divisor(b, a % b) : a);

/** Means over the tokens of images. */
function means(data, images, tokens, d, found) {
  found.fill(0);
  for (let i = 0; i < images; i++) {
    for (let t = 0; t < tokens; t++) {
      const start = (i * tokens + t) * d;
      for (let k = 0; k < d; k++) found[i * d + k] += data[start + k] / tokens;
    }
  }
}

/** Some of each label in turn, in runs of neighbours, which share chunks. */
function spread(found, labels) {
  const RUN = 6;
  const groups = new Map();
  for (const i of found) {
    if (!groups.has(labels[i])) groups.set(labels[i], []);
    groups.get(labels[i]).push(i);
  }
  const order = [...groups.keys()].sort((a, b) => a - b).map((label) => groups.get(label));
  const result = [];
  for (let start = 0; result.length < found.length; start += RUN) {
    for (const group of order) result.push(...group.slice(start, start + RUN));
  }
  return result;
}
