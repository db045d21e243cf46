/** Folders as ZIP files: written without compression, read with or without. PKWARE's APPNOTE has the format. */

import { Problem } from "./server.js";

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function checksum(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 0xff] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

const UTF8_NAMES = 0x0800;
const FIRST_DAY = 0x21; // 1980-01-01: the oldest date that there is

/** A ZIP of `{name: text}`. */
export function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [name, text] of Object.entries(files)) {
    const [path, content] = [name, text].map((each) => new TextEncoder().encode(each));
    const facts = fields(
      [20, 2],
      [UTF8_NAMES, 2],
      [0, 2],
      [0, 2],
      [FIRST_DAY, 2],
      [checksum(content), 4],
      [content.length, 4],
      [content.length, 4],
      [path.length, 2],
      [0, 2],
    );
    parts.push(fields([0x04034b50, 4]), facts, path, content);
    directory.push(fields([0x02014b50, 4], [20, 2]), facts, fields([0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]), path);
    offset += 4 + facts.length + path.length + content.length;
  }
  const count = Object.keys(files).length;
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = fields([0x06054b50, 4], [0, 2], [0, 2], [count, 2], [count, 2], [size, 4], [offset, 4], [0, 2]);
  return new Blob([...parts, ...directory, end]);
}

function fields(...pairs) {
  const bytes = new Uint8Array(pairs.reduce((sum, [, size]) => sum + size, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [value, size] of pairs) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return bytes;
}

/** `{name: text}` of a ZIP. Raises `Problem` if it is none. */
export async function unzip(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const view = new DataView(bytes.buffer);
  const files = {};
  try {
    let end = bytes.length - 22;
    while (view.getUint32(end, true) !== 0x06054b50) end -= 1;
    let at = view.getUint32(end + 16, true);
    for (let left = view.getUint16(end + 10, true); left > 0; left -= 1) {
      const [nameSize, extra, comment] = [28, 30, 32].map((place) => view.getUint16(at + place, true));
      const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameSize));
      const start = view.getUint32(at + 42, true);
      const content = start + 30 + view.getUint16(start + 26, true) + view.getUint16(start + 28, true);
      const packed = bytes.subarray(content, content + view.getUint32(at + 20, true));
      if (!name.endsWith("/")) files[name] = await unpacked(packed, view.getUint16(at + 10, true));
      at += 46 + nameSize + extra + comment;
    }
  } catch {
    throw new Problem(`${file.name} cannot be read as a ZIP. Nothing was imported.`);
  }
  return files;
}

async function unpacked(bytes, method) {
  if (method === 0) return new TextDecoder().decode(bytes);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"))).text();
}
