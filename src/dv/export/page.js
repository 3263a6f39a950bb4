"use strict";
// A page that renders a radiance grid. `about` describes the payload, see page.py; `shader` is page.frag.

const about = JSON.parse(document.getElementById("about").textContent);
const shader = document.getElementById("shader").textContent;
const canvas = document.querySelector("canvas");
const byId = (id) => document.getElementById(id);
const BRICK = 8, VERTICES = BRICK + 1;
const TARGET_MS = 33;   // of a frame while the camera moves
const BAND_MS = 40;     // of a band of rows while it rests

function fail(text) {
  byId("message").textContent = text;
  byId("message").hidden = false;
  byId("controls").hidden = true;
}

// --- payload ---------------------------------------------------------------------------------------------------------

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

// --- renderer --------------------------------------------------------------------------------------------------------

class Renderer {
  constructor(gl, arrays) {
    this.gl = gl;
    const atlas = fillAtlas(arrays);
    if (Math.max(...atlas.size, atlas.across * about.levels) > gl.getParameter(gl.MAX_3D_TEXTURE_SIZE))
      throw new Error("The graphics driver does not take 3D textures of this size.");
    const defines = Object.entries(about.defines).map(([name, value]) => `#define ${name} ${value}\n`).join("");
    this.program = this.link(`#version 300 es\n${defines}`);
    gl.useProgram(this.program);
    this.unit = 0;
    const { across } = atlas, { levels } = about;
    this.texture3D("bricks", gl.RGBA8UI, gl.RGBA_INTEGER, [across, across, across * levels], atlas.bricks, gl.NEAREST);
    this.texture3D("cells", gl.R8UI, gl.RED_INTEGER, atlas.cellsSize, atlas.cells, gl.NEAREST);
    atlas.numbers.forEach((data, g) => this.texture3D(`numbers[${g}]`, gl.RGBA8, gl.RGBA, atlas.size, data, gl.LINEAR));
    const network = arrays.weights.length ? arrays.weights : new Float32Array(4);
    const quads = Math.max(1, about.quads);
    this.texture2D("weights", gl.RGBA32F, quads, network.length / (4 * quads), network, gl.NEAREST);
    const rows = about.panorama, pixels = rows ? arrays.panorama : new Float32Array(4);
    this.texture2D("panorama", gl.RGBA16F, rows ? 2 * rows : 1, rows || 1, pixels, gl.LINEAR);
    gl.uniform3fv(this.at("atlas"), atlas.size);
    gl.uniform4fv(this.at("low"), about.low);
    gl.uniform4fv(this.at("range"), about.range);
    for (const name of ["interval", "minRaw", "near", "linearShare"]) gl.uniform1f(this.at(name), about[name]);
    this.framebuffer = gl.createFramebuffer();
    this.buffer = null;
  }

  link(head) {
    const { gl } = this, program = gl.createProgram();
    const corners = "void main() { gl_Position = vec4(4 * (gl_VertexID & 1) - 1, 2 * (gl_VertexID & 2) - 1, 0, 1); }";
    for (const [type, text] of [[gl.VERTEX_SHADER, "#version 300 es\n" + corners], [gl.FRAGMENT_SHADER, head + shader]]) {
      const part = gl.createShader(type);
      gl.shaderSource(part, text);
      gl.compileShader(part);
      if (!gl.getShaderParameter(part, gl.COMPILE_STATUS) && !gl.isContextLost())
        throw new Error("The graphics driver does not compile the shader: " + gl.getShaderInfoLog(part));
      gl.attachShader(program, part);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost())
      throw new Error("The graphics driver does not link the shader: " + gl.getProgramInfoLog(program));
    return program;
  }

  at(name) { return this.gl.getUniformLocation(this.program, name); }

  bind(name, target, filter) {
    const { gl } = this;
    gl.activeTexture(gl.TEXTURE0 + this.unit);
    gl.bindTexture(target, gl.createTexture());
    gl.texParameteri(target, gl.TEXTURE_MIN_FILTER, filter);
    gl.texParameteri(target, gl.TEXTURE_MAG_FILTER, filter);
    for (const axis of [gl.TEXTURE_WRAP_T, gl.TEXTURE_WRAP_R]) gl.texParameteri(target, axis, gl.CLAMP_TO_EDGE);
    gl.texParameteri(target, gl.TEXTURE_WRAP_S, name === "panorama" ? gl.REPEAT : gl.CLAMP_TO_EDGE);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.uniform1i(this.at(name), this.unit++);
  }

  texture3D(name, internal, format, size, data, filter) {
    this.bind(name, this.gl.TEXTURE_3D, filter);
    this.gl.texImage3D(this.gl.TEXTURE_3D, 0, internal, ...size, 0, format, this.gl.UNSIGNED_BYTE, data);
  }

  texture2D(name, internal, width, height, data, filter) {
    this.bind(name, this.gl.TEXTURE_2D, filter);
    this.gl.texImage2D(this.gl.TEXTURE_2D, 0, internal, width, height, 0, this.gl.RGBA, this.gl.FLOAT, data);
  }

  // Say what the next bands show; `lens` is fx, fy and the principal point in pixel indices.
  begin(pose, lens, width, height, rays, shown) {
    const { gl } = this, k = (about.side - 1) / about.scale;
    if (!this.buffer || width > this.buffer.width || height > this.buffer.height) {
      this.buffer = { width, height };
      gl.bindFramebuffer(gl.FRAMEBUFFER, this.framebuffer);
      const color = gl.createRenderbuffer();
      gl.bindRenderbuffer(gl.RENDERBUFFER, color);
      gl.renderbufferStorage(gl.RENDERBUFFER, gl.RGBA8, width, height);
      gl.framebufferRenderbuffer(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.RENDERBUFFER, color);
      gl.deleteRenderbuffer(this.color ?? null);
      this.color = color;
    }
    this.width = width;
    this.height = height;
    const column = (c) => [0, 1, 2].map((r) => pose[r][c]);
    const axes = [0, 1, 2].flatMap((c) => column(c).map((v) => v * k));
    gl.uniformMatrix3fv(this.at("axes"), false, axes);
    gl.uniform3fv(this.at("origin"), column(3).map((v, i) => (v - about.corner[i]) * k));
    gl.uniform4fv(this.at("lens"), lens);
    gl.uniform2f(this.at("size"), width, height);
    gl.uniform1i(this.at("rays"), rays);
    gl.uniform1i(this.at("levels"), shown.surroundings ? about.levels : 1);
    gl.uniform1i(this.at("environment"), shown.surroundings && about.panorama > 0);
    gl.uniform3fv(this.at("background"), shown.background);
  }

  // Render rows `first` to `first + count`, counted from below.
  band(first, count) {
    const { gl } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.framebuffer);
    gl.viewport(0, 0, this.width, this.height);
    gl.enable(gl.SCISSOR_TEST);
    gl.scissor(0, first, this.width, count);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    gl.disable(gl.SCISSOR_TEST);
  }

  pixels() {
    const { gl } = this, data = new Uint8Array(4 * this.width * this.height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.framebuffer);
    gl.readPixels(0, 0, this.width, this.height, gl.RGBA, gl.UNSIGNED_BYTE, data);
    return data;
  }

  wait() {
    const { gl } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.framebuffer);
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  }

  show() {
    const { gl } = this;
    gl.bindFramebuffer(gl.READ_FRAMEBUFFER, this.framebuffer);
    gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, null);
    gl.blitFramebuffer(0, 0, this.width, this.height, 0, 0, canvas.width, canvas.height, gl.COLOR_BUFFER_BIT, gl.LINEAR);
  }
}

// --- camera ----------------------------------------------------------------------------------------------------------

const add = (a, b, k = 1) => a.map((v, i) => v + k * b[i]);
const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
const norm = (a) => Math.sqrt(dot(a, a));
const unit = (a) => a.map((v) => v / norm(a));
const column = (pose, c) => [0, 1, 2].map((r) => pose[r][c]);
const poseOf = (columns) => [0, 1, 2].map((r) => columns.map((c) => c[r])).concat([[0, 0, 0, 1]]);

// Rotate a vector about a unit axis (Rodrigues' formula).
function turned(v, axis, angle) {
  const [a, b, c] = axis, [x, y, z] = v, cos = Math.cos(angle), sin = Math.sin(angle), along = dot(axis, v) * (1 - cos);
  const cross = [b * z - c * y, c * x - a * z, a * y - b * x];
  return v.map((value, i) => value * cos + cross[i] * sin + axis[i] * along);
}

class Camera {
  constructor() { this.reset(); }

  reset() {
    this.pose = about.pose.map((row) => row.slice());
    this.target = about.target.slice();
    this.zoom = 1;
  }

  turn(axis, angle) {
    const columns = [0, 1, 2].map((c) => turned(column(this.pose, c), axis, angle));
    const offset = turned(add(column(this.pose, 3), this.target, -1), axis, angle);
    this.pose = poseOf([...columns, add(this.target, offset)]);
  }

  // Move around the target, by fractions of half a turn.
  orbit(right, down) {
    this.turn(about.up, -right * Math.PI);
    const axis = column(this.pose, 0), angle = -down * Math.PI;
    const height = dot(turned(column(this.pose, 2), axis, angle), about.up);
    if (Math.abs(height) < 0.995) this.turn(axis, angle);
  }

  // Move sideways with the target, by fractions of the image's height.
  pan(right, down, lens, height) {
    const distance = norm(add(this.target, column(this.pose, 3), -1)) * height / lens[1];
    const step = add(column(this.pose, 0).map((v) => -right * distance * v), column(this.pose, 1), -down * distance);
    this.target = add(this.target, step);
    this.pose = poseOf([0, 1, 2].map((c) => column(this.pose, c)).concat([add(column(this.pose, 3), step)]));
  }

  // Change the distance to the target by a factor.
  approach(factor) {
    const offset = add(column(this.pose, 3), this.target, -1), distance = norm(offset);
    const wanted = Math.min(Math.max(distance * factor, 0.02 * about.scale), 20 * about.scale);
    const position = add(this.target, offset, wanted / distance);
    this.pose = poseOf([0, 1, 2].map((c) => column(this.pose, c)).concat([position]));
  }

  // The lens for a canvas, in which the image of the training's camera fits.
  lens(width, height) {
    const k = Math.min(width / about.lens.width, height / about.lens.height);
    return [about.lens.fx * k, about.lens.fy * k, width / 2 - 0.5, height / 2 - 0.5];
  }
}

// --- page ------------------------------------------------------------------------------------------------------------

async function start() {
  const gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });
  if (!gl) {
    fail("This page needs WebGL2, which this browser does not offer. Open it in a current Chrome, Edge, Firefox or "
      + "Safari, and allow hardware acceleration in its settings.");
    return;
  }
  if (!("DecompressionStream" in window)) {
    fail("This page needs a browser of 2023 or later (DecompressionStream is missing).");
    return;
  }
  const arrays = await readPayload();
  let renderer = new Renderer(gl, arrays);
  const camera = new Camera();
  const shown = { surroundings: true, background: about.background };
  let changed = true, lastMove = -Infinity, coarse = 0.5, rows = 0, bandRows = 16, frames = [];

  const touch = () => { changed = true; lastMove = performance.now(); };

  function resize() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
      changed = true;
    }
  }

  function begin(scale, rays) {
    const width = Math.max(1, Math.round(canvas.width * scale)), height = Math.max(1, Math.round(canvas.height * scale));
    renderer.begin(camera.pose, camera.lens(width, height), width, height, rays, shown);
  }

  function draw(now) {
    requestAnimationFrame(draw);
    if (document.hidden || gl.isContextLost()) return;
    resize();
    if (player) player(now);
    const started = performance.now();
    if (changed) {
      changed = false;
      begin(coarse, 1);
      renderer.band(0, renderer.height);
      renderer.wait();
      renderer.show();
      const took = performance.now() - started;
      frames = [...frames.filter((t) => t > now - 1000), now];
      byId("speed").textContent = `${renderer.width}×${renderer.height} px, ${took.toFixed(0)} ms a frame`;
      coarse = Math.min(1, Math.max(0.1, coarse * Math.min(1.25, Math.max(0.5, Math.sqrt(TARGET_MS / took)))));
      rows = -1;
    } else if (rows < canvas.height && now - lastMove > 150) {
      begin(1, about.rays);
      rows = Math.max(rows, 0);
      const count = Math.min(bandRows, canvas.height - rows);
      renderer.band(rows, count);
      renderer.wait();
      rows += count;
      bandRows = Math.max(1, Math.round(bandRows * Math.min(2, Math.max(0.5, BAND_MS / (performance.now() - started)))));
      if (rows >= canvas.height) {
        renderer.show();
        byId("speed").textContent = `${canvas.width}×${canvas.height} px`;
      }
    }
  }

  // --- mouse, touch, keys

  const pointers = new Map();
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    stop();
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const height = canvas.clientHeight, dx = (event.clientX - before.clientX) / height;
    const dy = (event.clientY - before.clientY) / height;
    if (pointers.size === 2) {
      const other = [...pointers.entries()].find(([id]) => id !== event.pointerId)[1];
      const apart = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY);
      camera.approach(Math.max(0.5, Math.min(2, apart(before) / Math.max(1, apart(event)))));
      camera.pan(dx / 2, dy / 2, camera.lens(canvas.width, canvas.height), canvas.height);
    } else if (event.buttons & 6 || event.shiftKey) {
      camera.pan(dx, dy, camera.lens(canvas.width, canvas.height), canvas.height);
    } else camera.orbit(dx, dy);
    pointers.set(event.pointerId, event);
    touch();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const pixels = event.deltaY * [1, 16, 400][event.deltaMode];
    camera.approach(Math.exp(Math.max(-0.5, Math.min(0.5, pixels * 0.001))));
    stop();
    touch();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const moves = {
      ArrowLeft: () => camera.orbit(0.03, 0), ArrowRight: () => camera.orbit(-0.03, 0),
      ArrowUp: () => camera.orbit(0, 0.03), ArrowDown: () => camera.orbit(0, -0.03),
      "+": () => camera.approach(0.95), "-": () => camera.approach(1 / 0.95),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
    stop();
    touch();
  });

  // --- controls

  const hasSurroundings = about.levels > 1;
  byId("surroundings").parentElement.hidden = !hasSurroundings;
  byId("surroundings").addEventListener("change", (event) => {
    shown.surroundings = event.target.checked;
    byId("background").disabled = shown.surroundings && hasSurroundings;
    touch();
  });
  byId("background").disabled = hasSurroundings;
  byId("background").value = about.backgroundColor;
  byId("background").addEventListener("input", (event) => {
    const hex = event.target.value;
    shown.background = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255 - 0.5);
    touch();
  });
  byId("reset").addEventListener("click", () => { stop(); camera.reset(); touch(); });

  // --- key frames

  const keys = [];
  let player = null;
  const seconds = () => Math.max(0.1, Number(byId("seconds").value) || 2);
  function stop() { player = null; byId("play").textContent = "Play"; }
  function listKeys() {
    byId("keys").textContent = `${keys.length} key frame${keys.length === 1 ? "" : "s"}`;
    byId("play").disabled = byId("save").disabled = keys.length < 2;
    byId("clear").disabled = !keys.length;
  }
  byId("add").addEventListener("click", () => {
    keys.push(camera.pose.map((row) => row.slice()));
    listKeys();
  });
  byId("clear").addEventListener("click", () => { stop(); keys.length = 0; listKeys(); });
  byId("play").addEventListener("click", () => {
    if (player) { stop(); return; }
    const from = performance.now(), length = seconds() * 1000 * (keys.length - 1);
    byId("play").textContent = "Stop";
    player = (now) => {
      const t = Math.min(1, Math.max(0, (now - from) / length));
      camera.pose = interpolated(keys, t * (keys.length - 1));
      touch();
      if (t >= 1) stop();
    };
  });
  byId("save").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([pathFile(keys, seconds())], { type: "application/json" }));
    link.download = `${about.name}_path.json`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
  listKeys();

  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => { renderer = new Renderer(gl, arrays); touch(); });

  // for scripts: pixels [height][width][4] of a view, from above, as render.py would write it
  window.dv = {
    about, camera, touch,
    get resting() { return !changed && rows >= canvas.height; },
    render(pose, lens, width, height, rays = about.rays) {
      renderer.begin(pose, lens, width, height, rays, shown);
      renderer.band(0, height);
      const below = renderer.pixels(), above = new Uint8Array(below.length);
      for (let row = 0; row < height; row++)
        above.set(below.subarray(4 * width * row, 4 * width * (row + 1)), 4 * width * (height - 1 - row));
      rows = -1;
      return above;
    },
  };
  byId("message").hidden = true;
  byId("controls").open = window.innerWidth >= 700;  // on phones they would hide the picture
  requestAnimationFrame(draw);
}

// Quaternion (x, y, z, w) of the rotation of a pose.
function quaternion(pose) {
  const m = (r, c) => pose[r][c], trace = m(0, 0) + m(1, 1) + m(2, 2);
  const candidates = [
    [1 + 2 * m(0, 0) - trace, m(0, 1) + m(1, 0), m(0, 2) + m(2, 0), m(2, 1) - m(1, 2)],
    [m(0, 1) + m(1, 0), 1 + 2 * m(1, 1) - trace, m(1, 2) + m(2, 1), m(0, 2) - m(2, 0)],
    [m(0, 2) + m(2, 0), m(1, 2) + m(2, 1), 1 + 2 * m(2, 2) - trace, m(1, 0) - m(0, 1)],
    [m(2, 1) - m(1, 2), m(0, 2) - m(2, 0), m(1, 0) - m(0, 1), 1 + trace],
  ];
  return unit(candidates[[0, 1, 2, 3].reduce((best, i) => candidates[i][i] > candidates[best][best] ? i : best, 0)]);
}

// The pose at a place between key frames, as dv.geometry.trajectory.interpolate: slerp, and straight lines.
function interpolated(keys, place) {
  const i = Math.min(Math.floor(place), keys.length - 2), w = place - i;
  const a = quaternion(keys[i]);
  let b = quaternion(keys[i + 1]), cos = dot(a, b);
  if (cos < 0) { b = b.map((v) => -v); cos = -cos; }
  const angle = Math.acos(Math.min(1, cos)), sin = Math.sin(angle);
  const [p, q] = sin < 1e-6 ? [1 - w, w] : [Math.sin((1 - w) * angle) / sin, Math.sin(w * angle) / sin];
  const [x, y, z, r] = unit(a.map((v, k) => p * v + q * b[k]));
  const columns = [
    [1 - 2 * (y * y + z * z), 2 * (x * y + z * r), 2 * (x * z - y * r)],
    [2 * (x * y - z * r), 1 - 2 * (x * x + z * z), 2 * (y * z + x * r)],
    [2 * (x * z + y * r), 2 * (y * z - x * r), 1 - 2 * (x * x + y * y)],
    [0, 1, 2].map((k) => (1 - w) * keys[i][k][3] + w * keys[i + 1][k][3]),
  ];
  return poseOf(columns);
}

// The file that render.py trajectory=FILE renders.
function pathFile(keys, seconds) {
  return JSON.stringify({ key_frames: keys.map((pose) => ({ pose })), seconds_per_key_frame: seconds }, null, 1);
}

start().catch((error) => fail(error.message));
