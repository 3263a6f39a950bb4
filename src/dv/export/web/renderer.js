// Renders bands of rows of a view with WebGL2; the shader is page.frag.

const shader = document.getElementById("shader").textContent;
const canvas = document.querySelector("canvas");

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
