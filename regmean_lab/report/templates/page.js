'use strict';
(function () {
  var data = JSON.parse(document.getElementById('report-data').textContent);
  var dialog = document.getElementById('details');
  var heading = document.getElementById('details-heading');
  var body = document.getElementById('details-body');
  var said = document.getElementById('said');

  // Every text goes through textContent: what results contain is shown and never interpreted.
  function add(parent, tag, text, className) {
    var element = document.createElement(tag);
    if (text !== undefined && text !== null) { element.textContent = text; }
    if (className) { element.className = className; }
    parent.appendChild(element);
    return element;
  }

  function number(value) {
    return value === null || value === undefined ? '–' : value.toFixed(2);
  }

  function table(parent, caption, rows) {
    var element = add(add(parent, 'div', null, 'scroll'), 'table');
    add(element, 'caption', caption);
    var content = add(element, 'tbody');
    rows.forEach(function (row) {
      var line = add(content, 'tr');
      add(line, 'th', row[0]).scope = 'row';
      add(line, 'td', row[1], 'text');
    });
  }

  function command(parent, text) {
    var shown = add(parent, 'pre', text);
    shown.tabIndex = 0;
    var button = add(parent, 'button', 'Copy the command', 'action');
    button.type = 'button';
    button.addEventListener('click', function () {
      // Where the clipboard is closed to pages, the selected text can be copied by hand.
      window.getSelection().selectAllChildren(shown);
      if (!navigator.clipboard) { said.textContent = 'The command is selected.'; return; }
      navigator.clipboard.writeText(text).then(
        function () { said.textContent = 'Copied.'; button.textContent = 'Copied'; },
        function () { said.textContent = 'The command is selected.'; }
      );
    });
  }

  function scores(parent, run) {
    var rows = [];
    run.scores.forEach(function (score) { rows.push([score[0] + ', ' + score[1], number(score[2])]); });
    rows.push(['mean in domain', number(run.means[0])], ['mean out of domain', number(run.means[1])]);
    table(parent, 'Scores', rows);
  }

  function settings(parent, caption, rows) {
    if (rows.length) { table(parent, caption, rows); }
  }

  function fillRun(parent, run) {
    add(parent, 'h4', 'Command');
    if (run.command) { command(parent, run.command); } else { add(parent, 'p', 'The result records no command.'); }
    add(parent, 'h4', 'Result');
    add(parent, 'p', null, 'path').appendChild(add(parent, 'code', run.path));
    scores(parent, run);
    var environment = data.environments[run.environment];
    settings(parent, 'Settings that differ between results', run.settings);
    settings(parent, 'Measured with', run.measured.concat(environment));
  }

  function summaryOf(run, score) {
    return run.members.join(' + ') + ', seed ' + run.seed + ': ' + number(score);
  }

  function open(cell) {
    heading.textContent = cell.title;
    body.textContent = '';
    add(body, 'p', cell.summary);
    if (cell.absent.length) {
      add(body, 'h3', 'Missing');
      cell.absent.forEach(function (job) {
        var item = add(body, 'details');
        add(item, 'summary', job[0].join(' + ') + ', seed ' + job[1]);
        if (job[2]) { command(item, job[2]); } else { add(item, 'p', 'No result has these members and this seed.'); }
      });
    }
    if (cell.runs.length) {
      add(body, 'h3', cell.runs.length === 1 ? 'The result' : 'The ' + cell.runs.length + ' results');
    }
    cell.runs.forEach(function (pair) {
      var run = data.runs[pair[0]];
      var item = add(body, 'details');
      add(item, 'summary', summaryOf(run, pair[1]));
      function fill() {
        if (item.open && !item.dataset.filled) { item.dataset.filled = 'yes'; fillRun(item, run); }
      }
      item.addEventListener('toggle', fill);
      if (cell.runs.length === 1) { item.open = true; fill(); }
    });
    if (cell.runs.length) {
      var common = add(body, 'details');
      add(common, 'summary', 'Settings that all results of this page share');
      settings(common, 'Shared settings', data.common);
    }
    said.textContent = '';
    dialog.showModal();
    dialog.scrollTop = 0;
  }

  document.addEventListener('click', function (event) {
    var button = event.target.closest('button[data-cell]');
    if (button) { open(data.cells[Number(button.dataset.cell)]); }
    if (event.target === dialog) { dialog.close(); }
  });
  document.getElementById('details-close').addEventListener('click', function () { dialog.close(); });

  // Which methods and columns are shown: a list of names, or null for all. It stays in the page's address, after the
  // section if there is one: #section-a&methods=simple,regmean&columns=in%20domain
  var picked = { methods: null, columns: null };
  var tables = Array.prototype.slice.call(document.querySelectorAll('table[data-best-of]'));

  function each(list, call) { Array.prototype.forEach.call(list, call); }

  function headings(table) { return table.querySelectorAll('th[data-name]'); }

  function namesOf(kind) {
    var found = [];
    function note(name) { if (found.indexOf(name) < 0) { found.push(name); } }
    tables.forEach(function (table) {
      if (table.dataset.rows === kind) { each(table.tBodies[0].rows, function (row) { note(row.cells[0].textContent); }); }
      if (table.dataset.columns === kind) { each(headings(table), function (one) { note(one.dataset.name); }); }
    });
    return found;
  }

  var names = { methods: namesOf('methods'), columns: namesOf('columns') };

  function isShown(kind, name) { return !kind || !picked[kind] || picked[kind].indexOf(name) >= 0; }

  // The best of what is shown: the highest of the complete scores, as they are written, if there are several.
  function markBest(buttons) {
    var best = Math.max.apply(null, buttons.map(function (button) { return Number(button.dataset.score); }));
    buttons.forEach(function (button) {
      var is = buttons.length > 1 && Number(button.dataset.score) === best;
      var told = button.querySelector('.unseen');
      button.querySelector('.score').classList.toggle('best', is);
      if (is && !told) { add(button, 'span', ' best', 'unseen'); }
      if (!is && told) { told.remove(); }
    });
  }

  function showTable(table) {
    var shown = Array.prototype.map.call(headings(table), function (one) {
      one.hidden = !isShown(table.dataset.columns, one.dataset.name);
      return !one.hidden;
    });
    var start = 0;
    each(table.querySelectorAll('th[scope="colgroup"]'), function (group) {
      group.dataset.span = group.dataset.span || group.colSpan;
      var own = shown.slice(start, start + Number(group.dataset.span));
      var first = own.indexOf(true);
      own.forEach(function (_, place) {
        [headings(table)[start + place]].concat(Array.prototype.map.call(table.tBodies[0].rows, function (row) {
          return row.cells[1 + start + place];
        })).forEach(function (cell) { cell.classList.toggle('first-of-group', place === first); });
      });
      group.hidden = first < 0;
      group.colSpan = own.filter(Boolean).length || 1;
      start += own.length;
    });
    var lines = {};
    each(table.tBodies[0].rows, function (row, at) {
      row.hidden = !isShown(table.dataset.rows, row.cells[0].textContent);
      shown.forEach(function (is, place) {
        var cell = row.cells[1 + place];
        cell.hidden = !is;
        var button = cell.querySelector('button[data-score]');
        var line = table.dataset.bestOf === 'row' ? at : place;
        if (is && !row.hidden && button) { (lines[line] = lines[line] || []).push(button); }
      });
    });
    Object.keys(lines).forEach(function (line) { markBest(lines[line]); });
  }

  function told(kind) {
    return picked[kind] ? picked[kind].length + ' of ' + names[kind].length + ' ' + kind : '';
  }

  function show() {
    tables.forEach(showTable);
    each(document.querySelectorAll('tr[data-method]'), function (row) {
      var method = row.dataset.method;
      row.hidden = names.methods.indexOf(method) >= 0 && !isShown('methods', method);
    });
    each(document.querySelectorAll('#choices input'), function (box) { box.checked = isShown(box.name, box.value); });
    document.getElementById('picked').textContent = [told('methods'), told('columns')].filter(Boolean).join(', ');
  }

  function parts() {
    var found = { anchor: '' };
    location.hash.slice(1).split('&').forEach(function (part) {
      var at = part.indexOf('=');
      if (at < 0) { found.anchor = part; } else { found[part.slice(0, at)] = part.slice(at + 1); }
    });
    return found;
  }

  function decoded(text) {
    try { return decodeURIComponent(text); } catch (error) { return text; }
  }

  function read() {
    var found = parts();
    ['methods', 'columns'].forEach(function (kind) {
      var given = found[kind];
      picked[kind] = null;
      if (given === undefined) { return; }
      var known = given.split(',').map(decoded).filter(function (name) { return names[kind].indexOf(name) >= 0; });
      // An address from a page with other methods picks nothing here; then all are shown.
      if (known.length || given === '') { picked[kind] = known; }
    });
    show();
    var target = found.anchor && document.getElementById(found.anchor);
    if (target && (picked.methods || picked.columns)) {
      // What the browser does where the address is a name alone.
      target.scrollIntoView();
      target.tabIndex = -1;
      target.focus({ preventScroll: true });
    }
  }

  function address(anchor) {
    var given = ['methods', 'columns'].filter(function (kind) { return picked[kind]; }).map(function (kind) {
      return kind + '=' + picked[kind].map(encodeURIComponent).join(',');
    });
    return '#' + [anchor].concat(given).filter(Boolean).join('&');
  }

  function choose(kind, chosen) {
    picked[kind] = chosen && chosen.length < names[kind].length ? chosen : null;
    history.replaceState(null, '', address(parts().anchor));
    show();
  }

  function addChoices(kind) {
    if (names[kind].length < 2) { return; }
    var group = add(document.getElementById('choices'), 'fieldset');
    add(group, 'legend', kind === 'methods' ? 'Methods' : 'Columns');
    var list = add(group, 'div', null, 'choices');
    names[kind].forEach(function (name) {
      var label = add(list, 'label');
      var box = add(label, 'input');
      box.type = 'checkbox'; box.name = kind; box.value = name;
      add(label, 'span', name);
      box.addEventListener('change', function () {
        choose(kind, names[kind].filter(function (one) { return one === name ? box.checked : isShown(kind, one); }));
      });
    });
    [['All ' + kind, null], ['No ' + kind, []]].forEach(function (pair) {
      var button = add(group, 'button', pair[0], 'action');
      button.type = 'button';
      button.addEventListener('click', function () { choose(kind, pair[1]); });
    });
    document.getElementById('pick').hidden = false;
  }

  addChoices('methods');
  addChoices('columns');
  document.addEventListener('click', function (event) {
    var link = event.target.closest('a[href^="#"]');
    if (!link || !(picked.methods || picked.columns)) { return; }
    event.preventDefault();
    location.hash = address(link.getAttribute('href').slice(1));
  });
  window.addEventListener('hashchange', read);
  read();

  // What is folded away belongs on paper.
  var opened = [];
  window.addEventListener('beforeprint', function () {
    opened = Array.prototype.filter.call(document.querySelectorAll('main details'), function (part) {
      return !part.open;
    });
    opened.forEach(function (part) { part.open = true; });
  });
  window.addEventListener('afterprint', function () {
    opened.forEach(function (part) { part.open = false; });
  });
})();
