"use strict";
(async () => {
  const at = (id) => document.getElementById(id);
  const bytes = async (packed) => {
    const raw = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text; // names of a file are only ever text
    if (kind) made.className = kind;
    return made;
  };
  const number = (value, digits = 2) => (value === null || Number.isNaN(value) ? "–" : value.toFixed(digits));
  const page = JSON.parse(new TextDecoder().decode(await bytes(at("page").textContent)));
  const packed = at("genes-packed").textContent.split("\n");
  const { spots, genes, layers } = page;
  const hasMeasured = layers.includes("measured");

  // The maps
  await Bokeh.embed.embed_items({ maps: JSON.parse(page.bokeh.document) }, [
    { docid: "maps", roots: Object.fromEntries(Object.values(page.bokeh.maps).map((id) => [id, id])), root_ids: Object.values(page.bokeh.maps) },
  ]);
  const bokeh = Bokeh.documents[0];
  const model = (name) => bokeh.get_model_by_name(name);
  const plots = Object.keys(page.bokeh.maps).map((name) => model(`map-${name}`));
  const discs = plots.flatMap((plot) => plot.renderers.filter((r) => r.name === "discs"));
  const whole = { x: [model("x").start, model("x").end], y: [model("y").start, model("y").end] };
  const at_spots = (rows) => ({ x: rows.map((i) => spots.x[i]), y: rows.map((i) => spots.y[i]) });
  model("unlike").data = at_spots(spots.unlike);

  let gene = null; // shown now
  let chosen = -1; // row of a spot
  let turn = 0;

  const decode = async (row) => {
    const codes = await bytes(packed[row.map]);
    const values = {};
    layers.forEach((layer, k) => {
      const [low, high] = row.limits[layer === "lower" || layer === "upper" ? "interval" : "maps"];
      values[layer] = Float32Array.from(codes.subarray(k * spots.ids.length, (k + 1) * spots.ids.length),
        (code) => (code === 255 ? NaN : low + ((high - low) * code) / 254));
    });
    return values;
  };
  const show = async (row) => {
    at("problem").hidden = true;
    if (row.map === null) {
      at("problem").textContent = `${row.gene} has no map in this file. Write one with: spam report RESULTS --genes ${row.gene}`;
      at("problem").hidden = false;
      return;
    }
    const mine = (turn += 1);
    const values = await decode(row);
    if (mine !== turn) return; // another gene was asked for in the meantime
    gene = { ...row, values };
    const mapper = model("colours");
    mapper.setv({ low: row.colours[0], high: row.colours[1] });
    model("spots").data = { x: spots.x, y: spots.y, predicted: values.predicted, measured: values.measured || values.predicted };
    at("gene").textContent = row.gene;
    at("trusted").replaceChildren(element("span", row.trust, `chip ${page.kinds[row.trust]}`), ` ${row.why}`);
    [at("low").textContent, at("high").textContent] = row.colours.map((value) => number(value));
    at("note-predicted").textContent = row.section_r === null ? "" : `r = ${number(row.section_r)}`;
    document.querySelectorAll("#table tr.now").forEach((line) => line.classList.remove("now"));
    document.querySelector(`#table tr[data-row="${row.row}"]`)?.classList.add("now");
    read();
    if (at("listing").open) list();
  };

  // Reading a spot
  const read = () => {
    model("chosen").data = at_spots(chosen < 0 ? [] : [chosen]);
    if (chosen < 0 || !gene) return;
    const value = (layer) => gene.values[layer][chosen];
    const facts = [["predicted", number(value("predicted"))]];
    if (hasMeasured) facts.unshift(["measured", number(value("measured"))]);
    facts.push([`${page.coverage} interval`, `${number(value("lower"))} to ${number(value("upper"))}`]);
    const flags = Object.keys(spots.flags).filter((flag) => spots.flags[flag].includes(chosen));
    const unlike = spots.unlike.includes(chosen);
    at("values").replaceChildren(...facts.map(([name, text]) => {
      const pair = element("div");
      pair.append(element("dt", name), element("dd", text));
      return pair;
    }));
    at("spot").textContent = `Spot ${spots.ids[chosen]}, ${gene.gene}: ${facts.map((f) => f.join(" ")).join(", ")} (${page.unit}).`
      + (unlike ? " Its image is unlike the training sections: do not rely on it." : "")
      + (flags.length ? ` Its tile is ${flags.join(" and ")}.` : "");
  };
  const choose = (row) => {
    if (row < 0) return;
    chosen = row;
    const [x, y] = [model("x"), model("y")];
    for (const [range, place] of [[x, spots.x[row]], [y, spots.y[row]]]) { // bring it into view
      const [low, high] = [Math.min(range.start, range.end), Math.max(range.start, range.end)];
      const shift = place < low || place > high ? place - (low + high) / 2 : 0;
      if (shift) range.setv({ start: range.start + shift, end: range.end + shift });
    }
    read();
  };
  const nearest = (x, y, isAllowed = () => true) => {
    let [best, least] = [-1, Infinity];
    for (let i = 0; i < spots.x.length; i += 1) {
      const [dx, dy] = [spots.x[i] - x, spots.y[i] - y];
      const distance = dx * dx + dy * dy;
      if (distance < least && isAllowed(dx, dy)) [best, least] = [i, distance];
    }
    return { row: best, distance: Math.sqrt(least) };
  };
  // A click, however long, and not the end of a drag; Bokeh's own "tap" needs a quick one.
  let [downX, downY] = [0, 0];
  for (const canvas of document.querySelectorAll(".canvas")) {
    canvas.addEventListener("pointerdown", (event) => { [downX, downY] = [event.clientX, event.clientY]; }, true);
    canvas.addEventListener("pointerup", (event) => {
      if (Math.hypot(event.clientX - downX, event.clientY - downY) > 4) return;
      const box = canvas.getBoundingClientRect();
      const [x, y] = [model("x"), model("y")];
      const { row, distance } = nearest(
        x.start + ((event.clientX - box.left) / box.width) * (x.end - x.start),
        y.end + ((event.clientY - box.top) / box.height) * (y.start - y.end),
      );
      if (distance <= 2 * spots.radius) choose(row);
    }, true);
  }
  const zoom = (factor) => {
    for (const name of ["x", "y"]) {
      const range = model(name);
      const [middle, half] = [(range.start + range.end) / 2, ((range.end - range.start) / 2) * factor];
      range.setv({ start: middle - half, end: middle + half });
    }
  };
  const reset = () => ["x", "y"].forEach((name) => model(name).setv({ start: whole[name][0], end: whole[name][1] }));
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  at("viewer").addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (step) {
      const inside = (dx, dy) => dx * step[0] + dy * step[1] > Math.abs(dx * step[1]) + Math.abs(dy * step[0]);
      if (chosen < 0) choose(nearest((whole.x[0] + whole.x[1]) / 2, (whole.y[0] + whole.y[1]) / 2).row);
      else choose(nearest(spots.x[chosen], spots.y[chosen], inside).row);
    } else if (event.key === "+" || event.key === "=") zoom(0.7);
    else if (event.key === "-") zoom(1 / 0.7);
    else return;
    event.preventDefault();
  });
  at("in").onclick = () => zoom(0.7);
  at("out").onclick = () => zoom(1 / 0.7);
  at("reset").onclick = reset;
  at("opacity").oninput = () => discs.forEach((r) => { r.glyph.fill_alpha = { value: at("opacity").value / 100 }; });
  at("opacity").oninput();
  at("tissue").onchange = () => discs.forEach((r) => {
    const plot = plots.find((p) => p.renderers.includes(r));
    plot.renderers.filter((x) => x.name === "tissue").forEach((x) => { x.visible = at("tissue").checked; });
  });
  if (at("marks")) at("marks").onchange = () => plots.forEach((p) => p.renderers.filter((r) => r.name === "marks").forEach((r) => { r.visible = at("marks").checked; }));

  // The table of values
  const MOST = 500;
  const list = () => {
    const names = ["spot", ...layers];
    const rows = spots.ids.map((_, i) => i).sort((a, b) => (gene.values.predicted[b] || 0) - (gene.values.predicted[a] || 0));
    const head = element("tr");
    names.forEach((name) => { const cell = element("th", name, name === "spot" ? "" : "number"); cell.scope = "col"; head.append(cell); });
    at("spots").querySelector("thead").replaceChildren(head);
    at("spots").querySelector("tbody").replaceChildren(...rows.slice(0, MOST).map((i) => {
      const line = element("tr");
      const name = element("th", spots.ids[i]);
      name.scope = "row";
      line.append(name, ...layers.map((layer) => element("td", number(gene.values[layer][i]), "number")));
      return line;
    }));
    at("listed").textContent = rows.length > MOST ? `The ${MOST} spots with the highest prediction of ${rows.length}. All values are in predictions.h5ad.` : "";
  };
  at("listing").ontoggle = () => { if (at("listing").open && gene) list(); };

  // The gene table
  let [order, isUp, most] = ["heldout_r", false, 100];
  const fill = () => {
    const wanted = at("search").value.trim().toLowerCase();
    const trust = at("trust").value;
    const found = genes.filter((row) => row.gene.toLowerCase().includes(wanted) && (!trust || row.trust === trust));
    const level = Object.keys(page.kinds); // from good to unknown
    const key = (row) => (order === "trust" ? -level.indexOf(row.trust) : order === "gene" ? row.gene.toLowerCase() : row[order]);
    found.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === null || y === null) return (x === null) - (y === null); // unknown values come last
      return (x < y ? -1 : x > y ? 1 : 0) * (isUp ? 1 : -1);
    });
    const exact = found.findIndex((row) => row.gene.toLowerCase() === wanted);
    if (exact > 0) found.unshift(...found.splice(exact, 1));
    at("table").querySelector("tbody").replaceChildren(...found.slice(0, most).map((row) => {
      const line = element("tr");
      line.dataset.row = row.row;
      if (gene && gene.row === row.row) line.className = "now";
      const name = element("th");
      name.scope = "row";
      const button = element("button", row.gene);
      button.type = "button";
      button.onclick = () => show(row);
      name.append(row.map === null ? element("span", row.gene) : button);
      line.append(name, element("td"));
      line.lastChild.append(element("span", row.trust, `chip ${page.kinds[row.trust]}`));
      for (const column of page.numbers) line.append(element("td", number(row[column]), "number"));
      return line;
    }));
    at("found").textContent = found.length === genes.length ? `${genes.length} genes` : `${found.length} of ${genes.length} genes`;
    at("more").hidden = found.length <= most;
    document.querySelectorAll("#table thead th").forEach((cell) => {
      const isKey = cell.firstChild.dataset.key === order;
      cell.setAttribute("aria-sort", isKey ? (isUp ? "ascending" : "descending") : "none");
    });
    return found;
  };
  const search = () => {
    most = 100;
    const found = fill();
    const wanted = at("search").value.trim().toLowerCase();
    if (found.length && (found[0].gene.toLowerCase() === wanted || found.length === 1) && wanted) show(found[0]);
  };
  at("search").oninput = search;
  at("search").onkeydown = (event) => {
    if (event.key === "Enter" && fill().length) show(fill()[0]);
  };
  at("trust").onchange = search;
  at("more").onclick = () => { most += 400; fill(); };
  document.querySelectorAll("#table thead button").forEach((button) => {
    button.onclick = () => {
      isUp = order === button.dataset.key ? !isUp : button.dataset.key === "gene";
      order = button.dataset.key;
      fill();
    };
  });
  fill();
  const first = genes.find((row) => row.map === 0);
  if (first) await show(first);
  document.documentElement.dataset.ready = "yes"; // for tests
})().catch((error) => {
  const problem = document.getElementById("problem");
  problem.textContent = `The maps cannot be drawn (${error}). Open this file in a browser of 2023 or later.`;
  problem.hidden = false;
  throw error;
});
