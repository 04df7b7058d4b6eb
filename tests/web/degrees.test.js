// Longitude and latitude against values that pyproj 3.7 gives.

import assert from "node:assert/strict";
import test from "node:test";
import { degrees } from "../../web/viewer/degrees.js";

const KNOWN = [
  ["EPSG:32632", 602600, 5337400, 10.380282328, 48.181548359],
  ["EPSG:32733", 260000.5, 6245000, 12.404265972, -33.908096230],
  ["EPSG:32601", 700000, 120, -175.202947187, 0.001085140],
  ["EPSG:32660", 333333, 8900000, 168.325754990, 80.053419169],
  ["EPSG:3857", 1000000, -7000000, 8.983152841, -53.091818770],
  ["EPSG:4326", 12.5, -33, 12.500000000, -33.000000000],
];

test("degrees of projected coordinates", () => {
  for (const [crs, x, y, longitude, latitude] of KNOWN) {
    const found = degrees(crs, x, y);
    // 1e-5 degrees are a metre; the series for UTM is that good up to the zones' edges.
    const east = Math.abs(found[0] - longitude) * Math.cos((latitude * Math.PI) / 180);
    assert(Math.max(east, Math.abs(found[1] - latitude)) < 1e-5, `${crs} ${x} ${y}: ${found}`);
  }
});

test("another CRS has none", () => {
  for (const crs of [null, "EPSG:3035", "EPSG:32661", "EPSG:32600", "PROJCRS[...]"]) assert.equal(degrees(crs, 1, 2), null);
});
