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
