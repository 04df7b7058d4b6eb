"use strict";
// Draws the charts of a page (Vega-Lite, JSON in <script class="spec"> inside figures), and sorts its tables.
(() => {
  const tip = document.getElementById("tip");
  const hide = () => { tip.style.visibility = "hidden"; };
  function show(text, x, y) {
    tip.textContent = text;
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(4, Math.min(y + 12, innerHeight - tip.offsetHeight - 8))}px`;
    tip.style.visibility = "visible";
  }
  const hover = (_, event, item, text) => (text ? show(text, event.clientX, event.clientY) : hide());

  async function draw(host) {
    const spec = JSON.parse(host.querySelector(".spec").textContent);
    const label = host.dataset.label, plot = host.appendChild(document.createElement("div"));
    plot.style.width = "100%";
    await vegaEmbed(plot, spec, { renderer: "svg", actions: false, tooltip: hover });
    host.tabIndex = 0;
    host.setAttribute("role", "group");
    host.setAttribute("aria-label", `${label} Arrow keys move between points.`);
    // Arrow keys go through the marks; a filter draws them anew, so they are looked for each time.
    let here = null;
    const leave = () => { here?.classList.remove("here"); here = null; hide(); };
    host.addEventListener("blur", leave);
    host.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") leave();
      if (!step || event.target !== host) return;
      event.preventDefault();
      const marks = [...host.querySelectorAll(".mark-symbol.role-mark path[aria-label], .mark-rect.role-mark path[aria-label]")];
      const at = marks.indexOf(here), next = marks[at < 0 ? (step > 0 ? 0 : marks.length - 1) : (at + step + marks.length) % marks.length];
      leave();
      if (!next) return;
      (here = next).classList.add("here");
      const box = here.getBoundingClientRect();
      show(here.getAttribute("aria-label"), box.right, box.bottom);
    });
  }
  for (const host of document.querySelectorAll("figure.plot")) draw(host);

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

  document.getElementById("save")?.addEventListener("click", () => {
    const link = document.createElement("a"), text = document.getElementById("results").textContent;
    link.download = "results.json";
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.click();
    URL.revokeObjectURL(link.href);
  });
})();
