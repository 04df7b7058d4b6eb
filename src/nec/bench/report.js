"use strict";
// Draws the report's charts and confusion matrices from the JSON in the page, and sorts its tables. The address's
// fragment holds what is chosen: #dataset=...&metric=...&decoder=both|with|without&hide=method,method&point=N&focus=N
(() => {
  const view = JSON.parse(document.getElementById("view").textContent);
  const $ = (id) => document.getElementById(id);
  const names = Object.keys(view.datasets);
  if (!names.length) return;
  const state = { dataset: names[0], metric: "", decoder: "both", hide: new Set(), point: 0, sizes: true };

  // -- small helpers ---------------------------------------------------------------------------------------------

  const element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  function fill(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  const size = (bytes) => {
    if (bytes < 1023.5) return `${bytes.toFixed(0)} B`;
    const kib = bytes / 1024;
    return `${kib < 9.995 ? kib.toFixed(2) : kib < 99.95 ? kib.toFixed(1) : Math.round(kib).toLocaleString("en")} KiB`;
  };
  const tick = (bytes) => (bytes < 1024 ? `${bytes} B` : `${bytes / 1024} KiB`);
  const percent = (share) => `${(100 * share).toFixed(2)} %`;
  const colour = (method) => `var(--m-${method})`;
  const method = (key) => view.methods[key];

  // Outlines of the markers around (0, 0), about 6 px in radius; the same shapes as in the printed figures.
  const MARKERS = {
    o: "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0Z", s: "M-5-5H5V5H-5Z", "^": "M0-6L6 5H-6Z", v: "M0 6L6-5H-6Z",
    D: "M0-6.5L6.5 0L0 6.5L-6.5 0Z", P: "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    X: "M-6-3.5L-3.5-6L0-2.5L3.5-6L6-3.5L2.5 0L6 3.5L3.5 6L0 2.5L-3.5 6L-6 3.5L-2.5 0Z",
    "*": "M0-7L1.8-2.2L6.7-2.2L2.8.9L4.2 5.8L0 3L-4.2 5.8L-2.8.9L-6.7-2.2L-1.8-2.2Z",
    h: "M0-6L5.2-3V3L0 6L-5.2 3V-3Z", d: "M0-6.5L4 0L0 6.5L-4 0Z", "<": "M-6 0L5-6V6Z", ">": "M6 0L-5-6V6Z",
    p: "M0-6L5.7-1.9L3.5 4.9H-3.5L-5.7-1.9Z", H: "M-3-5.2H3L6 0L3 5.2H-3L-6 0Z", 8: "M-2.3-5.5H2.3L5.5-2.3V2.3L2.3 5.5H-2.3L-5.5 2.3V-2.3Z",
  };
  const marker = (key, x, y, filled) =>
    svg("path", {
      d: MARKERS[method(key).marker] || MARKERS.o, transform: `translate(${x} ${y})`, "stroke-width": 1.6,
      style: `stroke:${colour(key)};fill:${filled ? colour(key) : "var(--page)"}`,
    });

  // -- what is shown ---------------------------------------------------------------------------------------------

  const dataset = () => view.datasets[state.dataset];
  const metricName = () => (dataset().metrics.find(([key]) => key === state.metric) || ["", ""])[1];
  const wanted = (point) =>
    point.dataset === state.dataset && !state.hide.has(point.method) &&
    (state.decoder === "both" || point.decoder === (state.decoder === "with"));

  /** Values of the points on the chosen axis: {point, x, y, low, high}; `read` gives {mean, low, high} or null. */
  function values(read) {
    return view.points.filter(wanted).flatMap((point) => {
      const value = read(point);
      return value ? [{ point, x: point.bytes_per_image, ...value }] : [];
    });
  }
  const accuracy = (point) => {
    const value = point.metrics[state.metric];
    return value ? { y: value.mean, low: value.mean - value.std, high: value.mean + value.std } : null;
  };
  const fidelity = (key) => (point) => {
    const value = point.fidelity[key];
    return value === undefined || method(point.method).reference ? null : { y: value, low: value, high: value };
  };

  // -- a chart ---------------------------------------------------------------------------------------------------

  function chart(host, items, { width, height, label, share, zero, sizes }) {
    const curves = items.filter((item) => !method(item.point.method).reference && item.x > 0);
    const references = items.filter((item) => method(item.point.method).reference);
    const edge = { left: 58, right: references.length ? 178 : 24, top: 14, bottom: 46 };
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "group", "aria-label": `Chart: ${label} against size. Arrow keys move between points.` });
    if (!items.length) {
      root.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle", class: "name" }, "nothing to show: choose a method"));
      host.replaceChildren(root);
      return;
    }
    const span = bounds(curves.length ? curves : [{ x: 100 }, { x: 1000 }], items, share, zero);
    const X = (bytes) => edge.left + (Math.log2(bytes) - span.x0) / (span.x1 - span.x0) * (width - edge.left - edge.right);
    const Y = (value) => height - edge.bottom - (value - span.y0) / (span.y1 - span.y0) * (height - edge.top - edge.bottom);
    axes(root, span, X, Y, { width, height, edge, label, share });
    for (const item of references) item.px = [width - edge.right, Y(item.y)];
    referenceLines(root, references, Y, edge.left, width - edge.right);
    for (const item of curves) item.px = [X(item.x), Y(item.y)];
    for (const line of lines(curves)) drawLine(root, line, Y);
    if (sizes) sizeLabels(root, curves, width - edge.right);
    listen(root, [...curves].sort((a, b) => a.point.method.localeCompare(b.point.method) || a.point.decoder - b.point.decoder || a.x - b.x).concat(references));
    host.replaceChildren(root);
  }

  function bounds(curves, items, share, zero) {
    const xs = curves.map((item) => Math.log2(item.x));
    let low = Math.min(...items.map((item) => item.low)), high = Math.max(...items.map((item) => item.high));
    const pad = Math.max(0.04 * (high - low), share ? 0.004 : 0.01);
    low = zero ? 0 : low - pad;
    high = share ? Math.min(high + pad, Math.max(1.004, high)) : high + pad;
    return { x0: Math.min(...xs) - 0.35, x1: Math.max(...xs) + 0.35, y0: low, y1: high };
  }

  function axes(root, span, X, Y, { width, height, edge, label, share }) {
    const bottom = height - edge.bottom;
    const rough = (span.y1 - span.y0) / 6, ten = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((k) => k * ten).find((s) => s >= rough);
    for (let i = Math.ceil(span.y0 / step); i * step <= span.y1 + 1e-9; i++) {
      const y = Y(i * step), text = share ? (100 * i * step).toFixed(step < 0.0099 ? 1 : 0) : (i * step).toFixed(step < 0.1 ? 2 : 1);
      root.append(svg("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y, y2: y }));
      root.append(svg("text", { x: edge.left - 8, y: y + 4, "text-anchor": "end" }, text));
    }
    const first = Math.ceil(span.x0), count = Math.floor(span.x1) - first + 1;
    const every = Math.ceil(count / Math.max(2, Math.floor((width - edge.left - edge.right) / 66)));
    for (let power = first; power <= span.x1; power++) {
      if (power % every) continue;
      const x = X(2 ** power);
      root.append(svg("line", { class: "grid", x1: x, x2: x, y1: edge.top, y2: bottom }));
      root.append(svg("text", { x, y: bottom + 19, "text-anchor": "middle" }, tick(2 ** power)));
    }
    root.append(svg("path", { class: "frame", d: `M${edge.left} ${edge.top}V${bottom}H${width - edge.right}` }));
    root.append(svg("text", { class: "name", x: (edge.left + width - edge.right) / 2, y: height - 6, "text-anchor": "middle" }, "size of an image (logarithmic)"));
    root.append(svg("text", { class: "name", transform: `translate(14 ${(edge.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, share ? `${label}, %` : label));
  }

  function lines(items) {
    const found = new Map();
    for (const item of items) {
      const key = `${item.point.method} ${item.point.decoder}`;
      found.set(key, [...(found.get(key) || []), item]);
    }
    return [...found.values()].map((line) => line.sort((a, b) => a.x - b.x));
  }

  function drawLine(root, line, Y) {
    const { method: key, decoder } = line[0].point, style = `stroke:${colour(key)}`;
    const group = svg("g", { "data-method": key, "data-decoder": decoder });
    group.append(svg("path", { class: decoder ? "line" : "line dashed", style, d: line.map((item, i) => `${i ? "L" : "M"}${item.px.join(" ")}`).join("") }));
    for (const item of line) {
      const [x, y] = item.px, top = Y(item.high), low = Y(item.low);
      if (low - top > 1) group.append(svg("path", { class: "bar", style: style + ";fill:none", d: `M${x - 4} ${top}h8M${x} ${top}V${low}M${x - 4} ${low}h8` }));
      const mark = marker(key, x, y, decoder);
      mark.classList.add("mark");
      group.append(mark);
    }
    root.append(group);
  }

  function referenceLines(root, references, Y, left, right) {
    let free = 10;
    for (const item of [...references].sort((a, b) => b.y - a.y)) {
      const y = Y(item.y), at = Math.max(y + 4, free), key = item.point.method;
      free = at + 13;
      root.append(svg("line", { class: "reference", "data-method": key, x1: left, x2: right, y1: y, y2: y, style: `stroke:${colour(key)}` }));
      const text = `${method(key).name}${item.point.decoder ? "" : ", no dec."} ${(100 * item.y).toFixed(1)}`;
      root.append(svg("text", { x: right + 6, y: at, class: "size", style: `fill:${colour(key)}` }, text));
    }
  }

  /** The size at the higher point of each setting, above left or below right of it, where no other label stands. */
  function sizeLabels(root, curves, right) {
    const tops = new Map();
    for (const item of curves) {
      const key = `${item.point.method} ${item.point.label}`;
      if (!tops.has(key) || tops.get(key).y < item.y) tops.set(key, item);
    }
    const taken = curves.map(({ px: [x, y] }) => [x - 6, y - 6, x + 6, y + 6]);
    for (const item of tops.values()) {
      const text = size(item.x), w = 6.1 * text.length, [x, y] = item.px;
      const places = [[x - 7 - w, y - 6], [x + 7, y + 14], [x + 9, y + 4], [x - 9 - w, y + 4], [x + 7, y - 6], [x - 7 - w, y + 14]];
      const free = places.find(([a, b]) => b > 12 && a > 60 && a + w < right + 20 && !taken.some((box) => a < box[2] && a + w > box[0] && b - 10 < box[3] && b > box[1]));
      if (!free) continue;
      taken.push([free[0], free[1] - 10, free[0] + w, free[1]]);
      root.append(svg("text", { x: free[0], y: free[1], class: "size halo", style: `fill:${colour(item.point.method)}` }, text));
    }
  }

  // -- reading a point -------------------------------------------------------------------------------------------

  function describe(point) {
    const parts = [element("b", {}, `${method(point.method).name}, ${point.label}`)];
    const add = (text) => parts.push(element("div", {}, text));
    const raw = dataset().raw;
    add(`${point.decoder ? "with" : "without"} decoder`);
    add(`${size(point.bytes_per_image)} (${point.bytes_per_image.toLocaleString("en", { maximumFractionDigits: 1 })} bytes) an image${raw ? `, ${(raw / point.bytes_per_image).toPrecision(3)} times smaller than raw pixels` : ""}`);
    for (const [key, name] of dataset().metrics) {
      const value = point.metrics[key];
      if (!value) continue;
      add(`${name}: ${percent(value.mean)}${value.count > 1 ? ` ± ${percent(value.std)}` : ""}`);
      if (key === state.metric) add(`seeds ${point.seeds.map((seed, i) => `${seed}: ${percent(point.values[key][i])}`).join("; ")}`);
    }
    for (const [key, name] of dataset().fidelity)
      if (point.fidelity[key] !== undefined) add(`${name}: ${point.fidelity[key].toFixed(3)}`);
    return parts;
  }

  function listen(root, items) {
    const ring = svg("circle", { class: "ring", r: 10, visibility: "hidden" });
    root.append(ring);
    let at = -1;
    const show = (index) => {
      at = index;
      const item = items[at], box = root.getBoundingClientRect(), scale = box.width / root.viewBox.baseVal.width;
      ring.setAttribute("cx", item.px[0]);
      ring.setAttribute("cy", item.px[1]);
      ring.setAttribute("visibility", "visible");
      const tip = $("tip");
      tip.replaceChildren(...describe(item.real || item.point));
      const x = box.left + item.px[0] * scale + 16, y = box.top + item.px[1] * scale + 12;
      tip.style.left = `${Math.max(4, Math.min(x, innerWidth - tip.offsetWidth - 8))}px`;
      tip.style.top = `${Math.max(4, Math.min(y, innerHeight - tip.offsetHeight - 8))}px`;
      tip.style.visibility = "visible";
    };
    const clear = () => {
      at = -1;
      ring.setAttribute("visibility", "hidden");
      $("tip").style.visibility = "hidden";
    };
    root.addEventListener("pointermove", (event) => {
      const box = root.getBoundingClientRect(), scale = box.width / root.viewBox.baseVal.width;
      const far = items.map(({ px }) => Math.hypot(box.left + px[0] * scale - event.clientX, box.top + px[1] * scale - event.clientY));
      const nearest = far.indexOf(Math.min(...far));
      if (far[nearest] < 28) show(nearest);
      else clear();
    });
    root.addEventListener("pointerleave", clear);
    root.addEventListener("blur", clear);
    root.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") clear();
      if (!step) return;
      event.preventDefault();
      show(at < 0 ? (step > 0 ? 0 : items.length - 1) : (at + step + items.length) % items.length);
    });
    root.showPoint = show;
  }

  // -- controls --------------------------------------------------------------------------------------------------

  function choice(text, options, chosen, change) {
    const select = element("select");
    for (const [key, name] of options) select.append(element("option", { value: key, ...(key === chosen && { selected: "" }) }, name));
    select.addEventListener("change", () => change(select.value));
    return element("label", {}, text, select);
  }

  function buttons(text, options, chosen, change) {
    const set = element("span", { class: "set", role: "group", "aria-label": text }, element("span", {}, text));
    for (const [key, name] of options) {
      const button = element("button", { type: "button", "aria-pressed": key === chosen }, name);
      button.addEventListener("click", () => change(key));
      set.append(button);
    }
    return set;
  }

  function controls() {
    const set = (key) => (value) => update({ [key]: value });
    const parts = [];
    if (names.length > 1) parts.push(buttons("Dataset", names.map((name) => [name, name]), state.dataset, set("dataset")));
    if (dataset().metrics.length > 1) parts.push(buttons("Metric", dataset().metrics, state.metric, set("metric")));
    const both = new Set(view.points.filter((point) => point.dataset === state.dataset).map((point) => point.decoder)).size > 1;
    if (both) parts.push(buttons("Decoder", [["both", "both"], ["with", "with"], ["without", "without"]], state.decoder, set("decoder")));
    parts.push(buttons("Sizes", [[true, "shown"], [false, "hidden"]], state.sizes, set("sizes")));
    keepFocus($("controls"), parts);
  }

  function methodButtons() {
    const keys = [...new Set(view.points.filter((point) => point.dataset === state.dataset).map((point) => point.method))];
    const parts = keys.map((key) => {
      const button = element("button", { type: "button", "aria-pressed": !state.hide.has(key), "data-method": key, title: "show or hide" });
      const glyph = svg("svg", { viewBox: "-17 -8 34 16", "aria-hidden": "true" });
      const line = svg("path", { d: "M-17 0H17", style: `stroke:${colour(key)};stroke-width:2`, "stroke-dasharray": method(key).reference ? "2 4" : null });
      glyph.append(line);
      if (!method(key).reference) glyph.append(marker(key, 0, 0, true));
      button.append(glyph, method(key).name);
      button.addEventListener("click", () => {
        if (!state.hide.delete(key)) state.hide.add(key);
        update({});
      });
      return button;
    });
    keepFocus($("methods"), parts);
  }

  /** Replace a host's children; the button that had the focus has it again. */
  function keepFocus(host, parts) {
    const all = () => [...host.querySelectorAll("button, select")];
    const at = all().indexOf(document.activeElement);
    host.replaceChildren(...parts);
    if (at >= 0) all()[at]?.focus();
  }

  // -- confusion matrix ------------------------------------------------------------------------------------------

  function confusion() {
    if (!$("picker")) return;
    const points = view.points.filter((point) => point.dataset === state.dataset && point.confusion);
    if (!points.length) {
      $("picker").replaceChildren();
      $("confusion").replaceChildren(element("p", { class: "soft" }, "No confusion matrix was kept for this dataset."));
      return;
    }
    const at = Math.min(state.point, points.length - 1), point = points[at];
    const options = points.map((p, i) => [i, `${method(p.method).name}, ${p.label}, ${size(p.bytes_per_image)}, ${p.decoder ? "with" : "without"} decoder`]);
    const pick = choice(`${state.dataset}:`, options, at, (value) => update({ point: Number(value) }));
    keepFocus($("picker"), [pick]);
    $("confusion").replaceChildren(element("div", { class: "scroll", tabindex: 0 }, matrix(point)));
  }

  function matrix(point) {
    const counts = point.confusion, classes = counts.map((_, i) => dataset().classes[i] || `class ${i}`);
    const sum = (list) => list.reduce((a, b) => a + b, 0), share = (a, b) => (b ? `${(100 * a / b).toFixed(1)}` : "–");
    const columns = classes.map((_, j) => sum(counts.map((row) => row[j])));
    const head = element("tr", {}, element("th", { scope: "col" }, "true class"), ...classes.map((name) => element("th", { scope: "col" }, name)));
    head.append(...["recognised, %", "precision, %", "IoU, %"].map((name, i) => element("th", { scope: "col", class: i ? null : "aside" }, name)));
    const body = counts.map((row, i) => {
      const total = sum(row), line = element("tr", {}, element("th", { scope: "row" }, classes[i]));
      row.forEach((count, j) => {
        const part = total ? count / total : 0, strength = (i === j ? 78 : 92) * Math.sqrt(part);
        const cell = element("td", { class: i === j ? "own" : null, title: `${count.toLocaleString("en")} of ${classes[i]} taken for ${classes[j]}` }, part >= 0.0005 ? (100 * part).toFixed(1) : "·");
        cell.style.background = `color-mix(in srgb, ${i === j ? "#56b4e9" : "#e69f00"} ${(strength).toFixed(0)}%, var(--page))`;
        if (strength > 45) cell.style.color = "#10151c";
        line.append(cell);
      });
      const values = [share(row[i], total), share(row[i], columns[i]), share(row[i], total + columns[i] - row[i])];
      line.append(...values.map((value, k) => element("td", { class: k ? null : "aside" }, value)));
      return line;
    });
    const caption = element("caption", {}, "Percent of each true class; the diagonal is right. Summed over the seeds.");
    return element("table", { class: "confusion" }, caption, element("thead", {}, head), element("tbody", {}, ...body));
  }

  // -- tables ----------------------------------------------------------------------------------------------------

  function sortBy(table, column) {
    const head = table.tHead.rows[0].cells, descending = head[column].getAttribute("aria-sort") === "ascending";
    const value = (row) => {
      const cell = row.cells[column];
      return "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent === "–" ? null : cell.textContent;
    };
    const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
    const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : descending ? order(b, a) : order(a, b)));
    for (const [, row] of rows) table.tBodies[0].append(row);
    for (const cell of head) cell.removeAttribute("aria-sort");
    head[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  }
  for (const table of document.querySelectorAll("table.sortable"))
    [...table.tHead.rows[0].cells].forEach((cell, i) => cell.querySelector("button").addEventListener("click", () => sortBy(table, i)));

  $("save")?.addEventListener("click", () => {
    const link = element("a", { download: "results.json" });
    link.href = URL.createObjectURL(new Blob([$("results").textContent], { type: "application/json" }));
    link.click();
    URL.revokeObjectURL(link.href);
  });

  // -- all together ----------------------------------------------------------------------------------------------

  function update(change) {
    if (change.dataset && change.dataset !== state.dataset) state.point = 0;
    Object.assign(state, change);
    if (!dataset().metrics.some(([key]) => key === state.metric)) state.metric = dataset().metrics[0]?.[0] || "";
    controls();
    methodButtons();
    chart($("chart"), values(accuracy), { width: 1000, height: 500, label: metricName(), share: true, sizes: state.sizes });
    const figures = dataset().fidelity.map(([key, name]) => {
      const figure = element("figure", { class: "plot" }), once = new Map();
      for (const item of values(fidelity(key))) once.set(`${item.point.method} ${item.point.label}`, item);
      const solid = [...once.values()].map((item) => ({ ...item, point: { ...item.point, decoder: true }, real: item.point }));
      chart(figure, solid, { width: 560, height: 340, label: name, share: false, zero: true });
      return figure;
    });
    $("fidelities").replaceChildren(...figures);
    confusion();
    const fragment = new URLSearchParams({ dataset: state.dataset, metric: state.metric, decoder: state.decoder });
    if (state.hide.size) fragment.set("hide", [...state.hide].join());
    if (state.point) fragment.set("point", state.point);
    history.replaceState(null, "", `#${fragment}`);
  }

  const asked = new URLSearchParams(location.hash.slice(1));
  if (names.includes(asked.get("dataset"))) state.dataset = asked.get("dataset");
  for (const key of (asked.get("hide") || "").split(",")) if (key in view.methods) state.hide.add(key);
  if (["with", "without"].includes(asked.get("decoder"))) state.decoder = asked.get("decoder");
  const plain = location.hash.length < 2;
  update({ metric: asked.get("metric") || "", point: Number(asked.get("point")) || 0 });
  if (plain) history.replaceState(null, "", location.pathname + location.search);
  if (asked.has("focus")) $("chart").firstChild.showPoint?.(Number(asked.get("focus")));
})();
