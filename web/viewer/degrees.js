// Longitude and latitude of what most rasters are in: degrees, Web Mercator, and the zones of UTM (WGS 84).

const RADIUS = 6378137;
const SQUARE = 0.00669437999014; // of the eccentricity

/** @param {string | null} crs @returns {[number, number] | null} degrees; null in another CRS */
export function degrees(crs, x, y) {
  if (crs === "EPSG:4326" || crs === "OGC:CRS84") return [x, y];
  const turn = (angle) => (angle * 180) / Math.PI;
  if (crs === "EPSG:3857") return [turn(x / RADIUS), turn(2 * Math.atan(Math.exp(y / RADIUS)) - Math.PI / 2)];
  const [, side, zone] = /^EPSG:32([67])(\d\d)$/.exec(crs ?? "") ?? [];
  if (!side || zone < 1 || zone > 60) return null;
  // Snyder, Map Projections: a working manual (1987), equations 8-17 to 8-25.
  const [e2, other] = [SQUARE, SQUARE / (1 - SQUARE)];
  const mu = (y - (side === "7" ? 1e7 : 0)) / 0.9996 / (RADIUS * (1 - e2 / 4 - (3 * e2 ** 2) / 64 - (5 * e2 ** 3) / 256));
  const e1 = (1 - Math.sqrt(1 - e2)) / (1 + Math.sqrt(1 - e2));
  const foot =
    mu +
    ((3 * e1) / 2 - (27 * e1 ** 3) / 32) * Math.sin(2 * mu) +
    ((21 * e1 ** 2) / 16 - (55 * e1 ** 4) / 32) * Math.sin(4 * mu) +
    ((151 * e1 ** 3) / 96) * Math.sin(6 * mu);
  const [c, t] = [other * Math.cos(foot) ** 2, Math.tan(foot) ** 2];
  const w = 1 - e2 * Math.sin(foot) ** 2;
  const n = RADIUS / Math.sqrt(w);
  const d = (x - 5e5) / (n * 0.9996);
  const part = d ** 2 / 2 - ((5 + 3 * t + 10 * c - 4 * c ** 2 - 9 * other) * d ** 4) / 24;
  const rest = ((61 + 90 * t + 298 * c + 45 * t ** 2 - 252 * other - 3 * c ** 2) * d ** 6) / 720;
  const latitude = foot - ((n * Math.tan(foot)) / ((RADIUS * (1 - e2)) / w ** 1.5)) * (part + rest);
  const third = ((1 + 2 * t + c) * d ** 3) / 6;
  const fifth = ((5 - 2 * c + 28 * t - 3 * c ** 2 + 8 * other + 24 * t ** 2) * d ** 5) / 120;
  return [6 * zone - 183 + turn((d - third + fifth) / Math.cos(foot)), turn(latitude)];
}
