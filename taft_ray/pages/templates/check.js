"use strict";
// Checks a certificate from its stored bytes: the seal, the signature, and its place in the run's chain of ledger entries.

// --- BLAKE2b with 32 bytes of output, by RFC 7693; words of 64 bits are pairs (low, high) in a Uint32Array
const IV = new Uint32Array([
  0xf3bcc908, 0x6a09e667, 0x84caa73b, 0xbb67ae85, 0xfe94f82b, 0x3c6ef372, 0x5f1d36f1, 0xa54ff53a,
  0xade682d1, 0x510e527f, 0x2b3e6c1f, 0x9b05688c, 0xfb41bd6b, 0x1f83d9ab, 0x137e2179, 0x5be0cd19,
]);
const SIGMA = [
  [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
  [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4], [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
  [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13], [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
  [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11], [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
  [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5], [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
];
const MIXES = [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15], [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]].map((words) => words.map((n) => 2 * n));

function add(v, a, low, high) {
  const sum = v[a] + low;
  v[a + 1] = v[a + 1] + high + (sum > 0xffffffff ? 1 : 0);
  v[a] = sum;
}
function turn(v, d, a, by) {  // v[d] = (v[d] ^ v[a]) rotated to the right
  const low = v[d] ^ v[a], high = v[d + 1] ^ v[a + 1];
  if (by === 32) { v[d] = high; v[d + 1] = low; }
  else if (by === 63) { v[d] = (low << 1) | (high >>> 31); v[d + 1] = (high << 1) | (low >>> 31); }
  else { v[d] = (low >>> by) | (high << (32 - by)); v[d + 1] = (high >>> by) | (low << (32 - by)); }
}
function compress(h, block, v, m, count, last) {
  v.set(h); v.set(IV, 16);
  v[24] ^= count >>> 0; v[25] ^= Math.floor(count / 0x100000000);
  if (last) { v[28] = ~v[28]; v[29] = ~v[29]; }
  for (let i = 0; i < 32; i++) m[i] = block.getUint32(4 * i, true);
  for (let round = 0; round < 12; round++) {
    const order = SIGMA[round % 10];
    for (let i = 0; i < 8; i++) {
      const words = MIXES[i], a = words[0], b = words[1], c = words[2], d = words[3], x = 2 * order[2 * i], y = 2 * order[2 * i + 1];
      add(v, a, v[b], v[b + 1]); add(v, a, m[x], m[x + 1]); turn(v, d, a, 32);
      add(v, c, v[d], v[d + 1]); turn(v, b, c, 24);
      add(v, a, v[b], v[b + 1]); add(v, a, m[y], m[y + 1]); turn(v, d, a, 16);
      add(v, c, v[d], v[d + 1]); turn(v, b, c, 63);
    }
  }
  for (let i = 0; i < 16; i++) h[i] ^= v[i] ^ v[i + 16];
}
function digest(bytes) {
  const h = IV.slice(), v = new Uint32Array(32), m = new Uint32Array(32), padded = new Uint8Array(128);
  h[0] ^= 0x01010000 ^ 32;
  let at = 0;
  for (; bytes.length - at > 128; at += 128) compress(h, new DataView(bytes.buffer, bytes.byteOffset + at, 128), v, m, at + 128, false);
  padded.set(bytes.subarray(at));
  compress(h, new DataView(padded.buffer), v, m, bytes.length, true);
  return hex(new Uint8Array(h.buffer, 0, 32));
}
function hex(bytes) { return [...bytes].map((one) => one.toString(16).padStart(2, "0")).join(""); }
function unhex(text, size) {
  if (typeof text !== "string" || text.length !== 2 * size || !/^[0-9a-f]*$/.test(text)) throw new Error(`expected ${2 * size} hexadecimal characters`);
  return Uint8Array.from(text.match(/../g), (one) => parseInt(one, 16));
}
const encoded = (text) => new TextEncoder().encode(text);

// --- seals: the field "digest" of an object is the digest of its text without that field
function fields(text) {  // of the outermost object: name -> [start, end] of "name":value in the text
  if (text[0] !== "{" || !text.endsWith("}")) throw new Error("it is not the JSON that was written");
  const found = new Map();
  let depth = 0, inside = false, start = 1;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (inside) { if (c === "\\") i++; else if (c === '"') inside = false; continue; }
    if (c === '"') inside = true;
    else if (c === "{" || c === "[") depth++;
    else if (c === "}" || c === "]") depth--;
    else if (/\s/.test(c)) throw new Error("it is not the JSON that was written");
    if ((c === "," && depth === 1) || (depth === 0 && i === text.length - 1)) {
      const name = JSON.parse(/^"(?:[^"\\]|\\.)*"/.exec(text.slice(start, i))[0]);
      if (found.has(name)) throw new Error(`the field ${name} is there twice`);
      found.set(name, [start, i]);
      start = i + 1;
    }
    if (depth === 0 && i !== text.length - 1) throw new Error("it is not the JSON that was written");
  }
  return found;
}
function without(text, names) {
  const kept = [...fields(text)].filter(([name]) => !names.includes(name)).map(([, [start, end]]) => text.slice(start, end));
  return `{${kept.join(",")}}`;
}
function canonical(text) {  // JSON as it is stored: keys sorted, no spaces; numbers and strings keep their letters
  let at = 0;
  const space = /\s*/y, scalar = /"(?:[^"\\]|\\.)*"|[^\s,:[\]{}"]+/y;
  function match(pattern) { pattern.lastIndex = at; const found = pattern.exec(text)?.[0] ?? ""; at += found.length; return found; }
  function take(c) { match(space); if (text[at] !== c) return false; at++; return true; }
  function expect(c) { if (!take(c)) throw new Error("it is not JSON"); }
  function several(end, one) {
    const found = [];
    if (take(end)) return found;
    do found.push(one()); while (take(","));
    expect(end);
    return found;
  }
  function value() {
    if (take("{")) {
      const pairs = several("}", () => { match(space); const name = match(scalar); expect(":"); return [JSON.parse(name), name, value()]; });
      if (new Set(pairs.map((one) => one[0])).size !== pairs.length) throw new Error("a field is there twice");
      pairs.sort((a, b) => (a[0] < b[0] ? -1 : 1));
      return `{${pairs.map(([, name, held]) => `${name}:${held}`).join(",")}}`;
    }
    if (take("[")) return `[${several("]", value).join(",")}]`;
    match(space);
    const found = match(scalar);
    JSON.parse(found);
    return found;
  }
  const made = value();
  match(space);
  if (at !== text.length) throw new Error("it is not JSON");
  return made;
}
function unsealed(text) {
  const made = JSON.parse(text), got = digest(encoded(without(text, ["digest"])));
  if (made.digest !== got) throw new Error(`its digest is ${got.slice(0, 16)}…, and it says ${String(made.digest).slice(0, 16)}…`);
  return made;
}

// --- the checks
const ADDED = ["signature", "repeated", "forgotten_before", "signed_too"];  // what an answer has beside the certificate's own fields
const SPKI = "302a300506032b6570032100";  // what a key has before it in DER (RFC 8410)

async function fetched(where, absent = false) {
  const answer = await fetch(where);
  if (absent && answer.status === 404) return null;
  if (!answer.ok) throw new Error(`${where} answers ${answer.status}`);
  return await answer.text();
}
async function signed(bytes, signature, known, say) {
  if (!signature) {
    if (known) throw new Error("it is not signed, and a key was asked for");
    say("open", "Signature: it is not signed; nothing in it says who made it");
    return;
  }
  if (signature.algorithm !== "ed25519") throw new Error("it is not an Ed25519 signature");
  const raw = unhex(signature.public_key, 32), name = unhex(signature.signature, 64);
  if (!globalThis.crypto?.subtle) {
    say("open", "Signature: not checked; a browser does so on https or on this machine alone");
    return;
  }
  const print = hex(new Uint8Array(await crypto.subtle.digest("SHA-256", unhex(SPKI + signature.public_key, 44))));
  let key;
  try { key = await crypto.subtle.importKey("raw", raw, { name: "Ed25519" }, false, ["verify"]); }
  catch (error) {
    if (error.name !== "NotSupportedError") throw error;
    say("open", "Signature: not checked; this browser knows no Ed25519");
    return;
  }
  if (!await crypto.subtle.verify({ name: "Ed25519" }, key, name, bytes)) throw new Error("it was not made by this key over these bytes");
  if (known && ![print, `sha256:${print}`, signature.public_key].includes(known)) throw new Error(`it is signed by sha256:${print}, not by the key that you know`);
  say("yes", `Signature: Ed25519, by sha256:${print}${known ? ", the key that you know" : "; whose key that is must be known from elsewhere"}`);
}
async function chained(where, certificate, sealedDigest, say) {
  const steps = new Map([...certificate.steps, certificate.rests_on].map((one) => [one.number, one.digest]));
  const first = Math.min(...steps.keys());
  let number = first, before = null, forgotten = null;
  for (;;) {
    const text = await fetched(`${where}?from=${number}`);
    const entries = text.split("\n").filter((line) => line);
    for (const line of entries) {
      let entry;
      try { entry = unsealed(line); } catch (error) { throw new Error(`entry ${number} of the ledger: ${error.message}`); }
      if (entry.number !== number) throw new Error(`expected entry ${number} of the ledger, got ${entry.number}`);
      if (before !== null && entry.prev !== before) throw new Error(`entry ${number} does not follow the one before it`);
      if (steps.has(number) && steps.get(number) !== entry.digest) throw new Error(`entry ${number} is not the one that the certificate names`);
      if (entry.kind === "forgotten" && entry.body.request === certificate.request) forgotten = entry;
      steps.delete(number);
      before = entry.digest;
      number++;
    }
    if (!entries.length) break;
    await new Promise((go) => setTimeout(go));  // the page stays awake
  }
  if (steps.size) throw new Error(`entry ${[...steps.keys()][0]} of the ledger, which the certificate names, is not there`);
  if (forgotten === null) throw new Error("no entry of the ledger says that this request is done");
  if (forgotten.body.certificate.digest !== sealedDigest) throw new Error("the ledger has another certificate of this request");
  say("yes", `Ledger: entries ${first} to ${number - 1} follow one another, and have every step and this certificate`);
}

(() => {
  const box = document.getElementById("checker");
  if (!box) return;
  const list = document.getElementById("checks"), verdict = document.getElementById("verdict");
  function say(ok, text) {
    const item = document.createElement("li");
    item.dataset.ok = ok;
    item.textContent = text;
    list.append(item);
  }
  async function attempt(name, action) {
    try { await action(); } catch (error) { say("no", `${name}: ${error.message}`); }
  }
  async function check() {
    list.replaceChildren();
    verdict.textContent = "Checking…";
    verdict.classList.remove("wrong");
    const given = document.getElementById("file").files[0], known = document.getElementById("known").value.trim().toLowerCase();
    let text = null, certificate = null, own = null;
    await attempt("Certificate", async () => { text = given ? canonical(await given.text()) : await fetched(box.dataset.certificate); });
    if (text !== null) await attempt("Seal", () => {
      own = without(text, ADDED);
      certificate = unsealed(own);
      say("yes", `Seal: every field has the digest that the certificate says, ${certificate.digest.slice(0, 16)}…`);
    });
    if (certificate !== null) {
      const bytes = encoded(own);
      await attempt("Signature", async () => {
        const beside = given || !box.dataset.signature ? null : JSON.parse(await fetched(box.dataset.signature));
        await signed(bytes, JSON.parse(text).signature ?? beside, known, say);
      });
      await attempt("Ledger", () => chained(box.dataset.ledger, certificate, digest(bytes), say));
    }
    const wrong = list.querySelectorAll('[data-ok="no"]').length;
    verdict.textContent = wrong ? "It does not hold:" : "It holds, by the stored bytes:";
    verdict.classList.toggle("wrong", wrong > 0);
    box.dataset.done = wrong ? "no" : "yes";
  }
  document.getElementById("check-form").addEventListener("submit", (event) => { event.preventDefault(); check(); });
  check();
})();
