// The rays of RadianceGrid.forward and .render_pixels (dv.radiance), marched as in dv.ops.marching_cpu.
// The page puts #version and the sizes, in capitals, before this text.
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp sampler3D;
precision highp usampler3D;

const int BRICK = 8;            // cells along an edge of a brick
const float STEP_SIZE = 0.5;    // in vertices
const float MIN_TRANSMITTANCE = 0.01;
const float MIN_NORMAL_LENGTH = 1e-3;

uniform usampler3D bricks;      // x, y, z of each brick's place; w: bricks to the nearest one that holds anything
uniform usampler3D cells;       // of the bricks that hold anything: cells to the nearest occupied one
uniform sampler3D numbers[GROUPS];  // raw density and features of the vertices, four in each
uniform sampler2D weights;      // of the decoder, see page.py
uniform sampler2D panorama;     // beyond the last level
uniform vec4 low[GROUPS], range[GROUPS];  // of the numbers
uniform vec3 atlas;             // vertices along the edges of the atlas of bricks
uniform float interval, minRaw, near, linearShare;
uniform vec3 background;        // RGB, where 0 is middle grey
uniform int levels;             // that are shown
uniform bool environment;       // whether the panorama is shown
uniform int rays;               // along a pixel's edge
uniform vec3 origin;            // of the camera, in grid coordinates
uniform mat3 axes;              // its axes right, down and forward, likewise
uniform vec4 lens;              // fx, fy and the pixel of the principal point
uniform vec2 size;              // of the image, px
out vec4 color;

const float TOP = float(SIDE - 1);

struct Ray {
  vec3 origin, direction, inverse;
};

Ray inLevel(vec3 o, vec3 d, int level) {
  float k = exp2(-float(level));
  Ray ray = Ray(o * k + (1.0 - k) / 2.0 * TOP, d * k, vec3(0));
  vec3 away = mix(vec3(1e-20), ray.direction, greaterThan(abs(ray.direction), vec3(1e-20)));
  ray.inverse = 1.0 / away;
  return ray;
}

vec2 cube(Ray ray) {
  vec3 a = -ray.origin * ray.inverse, b = (TOP - ray.origin) * ray.inverse;
  vec3 first = min(a, b), last = max(a, b);
  return vec2(max(near, max(first.x, max(first.y, first.z))), min(last.x, min(last.y, last.z)));
}

// Where the ray leaves the block of units (bricks or cells) less than `empty` units from its own.
float exitOf(Ray ray, ivec3 unit, int empty, int cellsPerUnit) {
  vec3 far = vec3(unit) + mix(vec3(1 - empty), vec3(empty), greaterThan(ray.inverse, vec3(0)));
  vec3 t = (far * float(cellsPerUnit) - ray.origin) * ray.inverse;
  return min(t.x, min(t.y, t.z));
}

// Composites the numbers of a ray; returns its transmittance.
float march(vec3 o, vec3 d, out vec4 sums[GROUPS]) {
  for (int g = 0; g < GROUPS; g++) sums[g] = vec4(0);
  float transmittance = 1.0;
  for (int segment = 0; segment < 2 * levels - 1; segment++) {
    int level = abs(segment - levels + 1);
    Ray ray = inLevel(o, d, level);
    vec2 span = cube(ray);
    if (level > 0) {
      vec2 inner = cube(inLevel(o, d, level - 1));
      if (segment < levels - 1) span.y = inner.x < inner.y ? min(span.y, inner.x) : span.y;
      else span.x = inner.x < inner.y ? inner.y : span.y;
    }
    float dt = STEP_SIZE / length(ray.direction);
    int n = 0;
    float t = span.x + 0.5 * dt;
    while (t < span.y && transmittance >= MIN_TRANSMITTANCE) {
      vec3 p = ray.origin + t * ray.direction;
      ivec3 cell = clamp(ivec3(p), 0, SIDE - 2), brick = cell / BRICK;
      uvec4 place = texelFetch(bricks, brick + ivec3(0, 0, level * BRICKS), 0);
      float beyond = 0.0;
      if (place.w > 0u) beyond = exitOf(ray, brick, int(place.w), BRICK);
      else {
        int empty = int(texelFetch(cells, ivec3(place.xyz) * BRICK + cell % BRICK, 0).r);
        if (empty > 0) beyond = exitOf(ray, cell, empty, 1);
        else {
          vec3 at = (vec3(place.xyz) * float(BRICK + 1) + p - vec3(brick * BRICK) + 0.5) / atlas;
          vec4 found = texture(numbers[0], at);
          float raw = low[0].x + range[0].x * found.x;
          if (raw >= minRaw) {
            float passing = exp(-(raw > 20.0 ? raw : log(1.0 + exp(raw))) * interval);
            float weight = transmittance * (1.0 - passing);
            sums[0] += weight * found;
            SUM_OTHER_GROUPS
            transmittance *= passing;
          }
          n += 1;
          t = span.x + (float(n) + 0.5) * dt;
          continue;
        }
      }
      n += max(1, int((beyond - t) / dt) + 1);
      t = span.x + (float(n) + 0.5) * dt;
    }
  }
  for (int g = 0; g < GROUPS; g++) sums[g] = low[g] * (1.0 - transmittance) + range[g] * sums[g];
  return transmittance;
}

// The basis of dv.ops.harmonics; values of higher degrees than are needed are never read.
void harmonics(vec3 d, out float basis[25]) {
  float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z;
  basis[0] = 1.0; basis[1] = x; basis[2] = y; basis[3] = z;
  basis[4] = x * y; basis[5] = y * z; basis[6] = x * z; basis[7] = xx - yy; basis[8] = 3.0 * zz - 1.0;
  float a = sqrt(5.0 / 8.0), b = sqrt(3.0 / 8.0), c = sqrt(15.0);
  basis[9] = a * y * (3.0 * xx - yy); basis[10] = c * x * y * z; basis[11] = b * y * (5.0 * zz - 1.0);
  basis[12] = z * (5.0 * zz - 3.0) / 2.0; basis[13] = b * x * (5.0 * zz - 1.0);
  basis[14] = c / 2.0 * z * (xx - yy); basis[15] = a * x * (xx - 3.0 * yy);
  a = sqrt(35.0) / 2.0; b = sqrt(35.0 / 8.0); c = sqrt(5.0) / 2.0;
  float e = sqrt(5.0 / 8.0);
  basis[16] = a * x * y * (xx - yy); basis[17] = b * y * z * (3.0 * xx - yy);
  basis[18] = c * x * y * (7.0 * zz - 1.0); basis[19] = e * y * z * (7.0 * zz - 3.0);
  basis[20] = (zz * (35.0 * zz - 30.0) + 3.0) / 8.0; basis[21] = e * x * z * (7.0 * zz - 3.0);
  basis[22] = c / 2.0 * (xx - yy) * (7.0 * zz - 1.0); basis[23] = b * x * z * (xx - 3.0 * yy);
  basis[24] = a / 4.0 * (xx * (xx - 3.0 * yy) - yy * (3.0 * xx - yy));
}

#if QUADS > 0
// The decoder's network: two hidden layers of QUADS times four channels. Each row of the texture holds the weights of
// one input, the row after those of a layer its biases.
vec3 decode(float inputs[INPUTS]) {
  vec4 first[QUADS], second[QUADS];
  for (int q = 0; q < QUADS; q++) {
    vec4 sum = texelFetch(weights, ivec2(q, INPUTS), 0);
    for (int i = 0; i < INPUTS; i++) sum += inputs[i] * texelFetch(weights, ivec2(q, i), 0);
    first[q] = max(sum, 0.0);
  }
  for (int q = 0; q < QUADS; q++) {
    int row = INPUTS + 1;
    vec4 sum = texelFetch(weights, ivec2(q, row + 4 * QUADS), 0);
    for (int k = 0; k < QUADS; k++, row += 4)
      sum += mat4(texelFetch(weights, ivec2(q, row), 0), texelFetch(weights, ivec2(q, row + 1), 0),
                  texelFetch(weights, ivec2(q, row + 2), 0), texelFetch(weights, ivec2(q, row + 3), 0)) * first[k];
    second[q] = max(sum, 0.0);
  }
  int row = INPUTS + 2 + 4 * QUADS;
  vec4 sum = texelFetch(weights, ivec2(0, row + 4 * QUADS), 0);
  for (int k = 0; k < QUADS; k++, row += 4)
    sum += mat4(texelFetch(weights, ivec2(0, row), 0), texelFetch(weights, ivec2(0, row + 1), 0),
                texelFetch(weights, ivec2(0, row + 2), 0), texelFetch(weights, ivec2(0, row + 3), 0)) * second[k];
  return sum.rgb;
}
#endif

// RGB of a ray, where 0 is middle grey, and its opacity.
vec4 trace(vec2 pixel) {
  vec3 direction = axes * vec3((pixel - lens.zw) / lens.xy, 1.0), unit = normalize(direction);
  vec4 sums[GROUPS];
  float transmittance = march(origin, direction, sums), opacity = 1.0 - transmittance;
  float features[4 * GROUPS];  // the density comes first
  for (int g = 0; g < GROUPS; g++)
    for (int c = 0; c < 4; c++) features[4 * g + c] = sums[g][c];
  float basis[25];
  harmonics(unit, basis);
  vec3 beyond = background;
  if (environment)
    beyond = texture(panorama, vec2(atan(unit.y, unit.x) / 6.283185307 + 0.5, acos(clamp(unit.z, -1.0, 1.0)) / 3.141592654)).rgb;
  vec3 rgb = transmittance * beyond;
  for (int k = 0; k < COEFFICIENTS / 3; k++)
    rgb += vec3(features[1 + 3 * k], features[2 + 3 * k], features[3 + 3 * k]) * (k == 0 ? 1.0 : VIEW_SCALE * basis[k]);
#if QUADS > 0
  if (opacity > 0.0) {
    float inputs[INPUTS];
    int count = 0;
    for (int i = 0; i < DECODER_FEATURES; i++) inputs[count++] = features[1 + i];
    for (int i = 1; i < DIRECTIONS; i++) inputs[count++] = basis[i];
#if REFLECTIONS > 0
    vec3 normal = vec3(features[1 + DECODER_FEATURES], features[2 + DECODER_FEATURES], features[3 + DECODER_FEATURES]);
    normal /= max(length(normal), MIN_NORMAL_LENGTH);
    float cosine = dot(unit, normal);
    harmonics(unit - 2.0 * cosine * normal, basis);
    inputs[count++] = cosine;
    for (int i = 1; i < REFLECTIONS; i++) inputs[count++] = REFLECTED_SCALE * basis[i];
#endif
    rgb += opacity * decode(inputs);
  }
#endif
  return vec4(rgb, opacity);
}

vec3 toLinear(vec3 c) {
  return mix(c / 12.92, pow((max(c, 0.04045) + 0.055) / 1.055, vec3(2.4)), greaterThan(c, vec3(0.04045)));
}

vec3 toSrgb(vec3 c) {
  return mix(c * 12.92, 1.055 * pow(max(c, 0.0031308), vec3(1.0 / 2.4)) - 0.055, greaterThan(c, vec3(0.0031308)));
}

void main() {
  vec2 pixel = vec2(gl_FragCoord.x - 0.5, size.y - gl_FragCoord.y - 0.5);
  vec3 srgb = vec3(0), linear = vec3(0);
  for (int j = 0; j < rays * rays; j++) {
    vec2 offset = (vec2(j % rays, j / rays) + 0.5) / float(rays) - 0.5;
    vec3 rgb = trace(pixel + offset).rgb;
    srgb += rgb + 0.5;
    linear += toLinear(rgb + 0.5);
  }
  float count = float(rays * rays);
  color = vec4(clamp(mix(srgb / count, toSrgb(linear / count), linearShare), 0.0, 1.0), 1.0);
}
