// The camera: a pose, and the point that it moves around.

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
