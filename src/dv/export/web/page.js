// What is drawn when, and the controls: mouse, touch, keys, buttons.

const byId = (id) => document.getElementById(id);
const TARGET_MS = 33;   // of a frame while the camera moves
const BAND_MS = 40;     // of a band of rows while it rests

function fail(text) {
  byId("message").textContent = text;
  byId("message").hidden = false;
  byId("controls").hidden = true;
}

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

start().catch((error) => fail(error.message));
