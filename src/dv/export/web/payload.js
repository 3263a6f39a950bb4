// The payload of the page: reading its arrays, and filling the textures of the renderer. `about` describes it, see page.py.

const about = JSON.parse(document.getElementById("about").textContent);
const BRICK = 8, VERTICES = BRICK + 1;

async function readPayload() {
  const text = document.getElementById("payload").textContent.trim();
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(unpacked).arrayBuffer();
  const types = { uint8: Uint8Array, float32: Float32Array };
  const arrays = {};
  for (const [name, { offset, count, type }] of Object.entries(about.arrays))
    arrays[name] = new types[type](buffer, offset, count);
  return arrays;
}

// Copy the vertices into bricks of 9³, of which neighbours share a layer, so that the GPU can interpolate in each.
function fillAtlas(arrays) {
  const { side, levels, groups, missing } = about;
  const across = Math.ceil((side - 1) / BRICK);
  const places = new Int32Array(levels * across ** 3).fill(-1);
  let count = 0;
  arrays.skip.forEach((skip, brick) => { if (skip === 0) places[brick] = count++; });
  const wide = Math.max(1, Math.ceil(Math.cbrt(count))), deep = Math.max(1, Math.ceil(count / wide ** 2));
  const place = (n) => [n % wide, Math.floor(n / wide) % wide, Math.floor(n / wide ** 2)];

  const bricks = new Uint8Array(4 * places.length);
  const cells = new Uint8Array(wide * wide * deep * BRICK ** 3);
  places.forEach((n, brick) => {
    if (n < 0) { bricks[4 * brick + 3] = arrays.skip[brick]; return; }
    const [px, py, pz] = place(n);
    bricks.set([px, py, pz, 0], 4 * brick);
    for (let z = 0; z < BRICK; z++) for (let y = 0; y < BRICK; y++) {
      const from = n * BRICK ** 3 + (z * BRICK + y) * BRICK;
      const to = ((pz * BRICK + z) * wide * BRICK + py * BRICK + y) * wide * BRICK + px * BRICK;
      cells.set(arrays.cells.subarray(from, from + BRICK), to);
    }
  });

  const size = [wide * VERTICES, wide * VERTICES, deep * VERTICES];
  const numbers = [];
  for (let g = 0; g < groups; g++) {
    const fill = missing.slice(4 * g, 4 * g + 4);
    const word = new Uint32Array(new Uint8Array(fill).buffer)[0];
    numbers.push(new Uint8Array(new Uint32Array(size[0] * size[1] * size[2]).fill(word).buffer));
  }
  const total = arrays.numbers.length / about.channels;
  let row = 0;
  for (let level = 0; level < levels; level++)
    for (let z = 0; z < side; z++) for (let y = 0; y < side; y++) for (let x = 0; x < side; x++) {
      const bit = ((level * side + z) * side + y) * side + x;
      if (!(arrays.stored[bit >> 3] & (128 >> (bit & 7)))) continue;
      for (let c = z >> 3; c >= Math.max(0, (z - 1) >> 3); c--)
        for (let b = y >> 3; b >= Math.max(0, (y - 1) >> 3); b--)
          for (let a = x >> 3; a >= Math.max(0, (x - 1) >> 3); a--) {
            if (a >= across || b >= across || c >= across) continue;
            const n = places[((level * across + c) * across + b) * across + a];
            if (n < 0) continue;
            const [px, py, pz] = place(n);
            const X = px * VERTICES + x - a * BRICK, Y = py * VERTICES + y - b * BRICK, Z = pz * VERTICES + z - c * BRICK;
            const at = 4 * ((Z * size[1] + Y) * size[0] + X);
            for (let k = 0; k < about.channels; k++) numbers[k >> 2][at + (k & 3)] = arrays.numbers[k * total + row];
          }
      row++;
    }
  return { across, bricks, cells, cellsSize: [wide * BRICK, wide * BRICK, deep * BRICK], numbers, size };
}
