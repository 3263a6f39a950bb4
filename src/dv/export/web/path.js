// The path through key frames, and its file.

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
