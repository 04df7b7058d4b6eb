// Does with the page what a question on the command line says, in Chromium, and prints what it saw as JSON: see test_page.py.

import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const { url, program, image, picks = [], waits, width = 1000 } = JSON.parse(process.argv[2]);
const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox"] });
const said = { console: [], requests: [] };
try {
  const page = await browser.newPage({ viewport: { width, height: 900 }, acceptDownloads: true });
  page.setDefaultTimeout(60_000);
  page.on("console", (message) => message.type() === "error" && said.console.push(message.text()));
  page.on("pageerror", (error) => said.console.push(String(error)));
  page.on("request", (request) => said.requests.push(request.url()));
  await page.goto(url);
  await until(page, `Boolean(${waits})`);
  said.overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (image !== undefined) {
    await page.locator(`[data-image="${image}"]`).press("Enter");
    await page.waitForSelector("[data-neighbours]");
    said.neighbours = (await page.locator("[data-neighbours]").getAttribute("data-neighbours")).split(" ").map(Number);
    await page.keyboard.press("Escape");
    await until(page, '!document.querySelector(".query")');
  }
  said.tiles = await page.evaluate(() =>
    [...document.querySelectorAll(".tile")].map((tile) => {
      const canvas = tile.querySelector("canvas");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return { image: Number(tile.dataset.image), drawn: tile.dataset.drawn, broken: tile.classList.contains("broken"), pixels: [...data] };
    }),
  );
  if (await page.locator(".map canvas").count()) {
    said.maps = [await saved(page)];
    const box = await page.locator(".map canvas").boundingBox();
    for (const [y, x, shift] of picks) {
      const [rows, columns] = await grid(page);
      const zoom = 0.96 * Math.min(box.width / columns, box.height / rows);
      const point = {
        x: box.width / 2 + (x + 0.5 - columns / 2) * zoom,
        y: box.height / 2 + (y + 0.5 - rows / 2) * zoom,
      };
      await page.locator(".map canvas").click({ position: point, modifiers: shift ? ["Shift"] : [] });
      await until(page, `document.getElementById("said").textContent.includes("row ${y}, column ${x}.")`);
    }
    if (picks.length) said.maps.push(await saved(page));
    said.legend = await page.locator(".legend span").allTextContents();
  }
  said.pictures = await page.evaluate(() => [...document.querySelectorAll(".tile img")].filter((each) => each.naturalWidth).length);
  said.errors = await page.locator("#errors p").allTextContents();
  said.facts = await page.locator("#facts").textContent();
} finally {
  await browser.close();
}
console.log(JSON.stringify(said));

async function grid(page) {
  const [, rows, columns] = /(\d+) × (\d+) tokens/.exec(await page.locator("#facts").textContent());
  return [Number(rows), Number(columns)];
}

async function saved(page) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByText("Save PNG").click()]);
  return readFileSync(await download.path()).toString("base64");
}

/** Playwright's waitForFunction evaluates text in the page, which the page's policy forbids. */
async function until(page, holds) {
  for (let left = 600; !(await page.evaluate(holds)); left--) {
    if (!left) throw new Error(`never came: ${holds}: ${await page.locator("body").innerText()}`);
    await page.waitForTimeout(100);
  }
}
