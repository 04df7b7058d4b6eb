// The page: opens the store that <body data-store> or ?store= names and shows it as what it is.

import { openStore } from "../store.js";
import { showImages } from "./images.js";
import { showRaster } from "./raster.js";

const at = (id) => document.getElementById(id);

/** Show an error once; the rest of the page stays. */
export function complain(error) {
  const text = error.message || String(error);
  if ([...at("errors").children].some((entry) => entry.textContent === text)) return;
  at("errors").append(make("p", {}, text));
}

/** Say something to those who do not see the page change. */
export const say = (text) => {
  at("said").textContent = text;
};

/** An element with properties (with a dash: attributes) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

/** A select of [value, text] entries with a label. */
export function choice(words, entries, changed) {
  const options = entries.map(([value, text]) => make("option", { value }, text));
  const select = make("select", { onchange: () => changed(select.value) }, ...options);
  return make("label", {}, words, select);
}

/** Runs jobs that `next` gives, some at a time, as long as it gives any. */
export function pump(next, most = 6) {
  let running = 0;
  return function run() {
    while (running < most) {
      const job = next();
      if (!job) return;
      running++;
      // A pause between two jobs, so that decoding never keeps the page from answering.
      job()
        .catch(complain)
        .then(() => new Promise((resolve) => setTimeout(resolve)))
        .then(() => {
          running--;
          run();
        });
    }
  };
}

export const sizeText = (bytes) =>
  bytes < 1e6 ? `${(bytes / 1e3).toFixed(bytes < 1e4 ? 1 : 0)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e8 ? 1 : 0)} MB`;

async function start() {
  const { store: beside, images } = document.body.dataset;
  const location = new URL(new URLSearchParams(globalThis.location.search).get("store") ?? beside, document.baseURI);
  const store = await openStore(location);
  const { model, title } = store.attributes;
  const name = document.body.dataset.name || title || decodeURIComponent(location.pathname).split("/").filter(Boolean).pop();
  at("title").textContent = document.title = name;
  const size = store.attributes.shards
    ? store.attributes.shards.bytes.reduce((sum, bytes) => sum + bytes, 0)
    : store.attributes.times.reduce((sum, entry) => sum + entry.stored_bytes, 0);
  const what =
    store.kind === "raster"
      ? `${store.grid.join(" × ")} tokens, ${store.times.length} ${store.times.length === 1 ? "date" : "dates"}`
      : `${store.images.toLocaleString("en")} images of ${store.grid.join(" × ")} tokens`;
  at("facts").textContent = [what, `${store.dimensions} values each`, sizeText(size), model?.name].filter(Boolean).join(" · ");
  setInterval(() => {
    at("traffic").textContent = `${sizeText(store.bytesRead)} fetched in ${store.requests} requests`;
  }, 200);
  at("view").replaceChildren();
  await (store.kind === "raster" ? showRaster : showImages)(store, at("view"), { images });
}

start()
  .catch((error) => {
    complain(error);
    at("view").replaceChildren(make("p", { className: "hint" }, "The store cannot be shown."));
  })
  .finally(() => at("view").setAttribute("aria-busy", "false"));
