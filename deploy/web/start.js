// Says in words why the page cannot start, where modules or WebAssembly cannot be loaded. No module: any browser runs it.
(function () {
  var verdict = document.getElementById('verdict');
  function say(text) {
    verdict.textContent = text;
    verdict.className = 'verdict bad';
    window.edgeReport = { kind: 'edgecompress.web_report', version: 1, ok: false, verdict: 'refused: ' + text, checks: [] };
    document.documentElement.setAttribute('data-state', 'refused');
  }
  if (location.protocol === 'file:' && !document.querySelector('script[data-path]')) {
    say('A browser loads no modules of a folder from file:// pages. Start "python serve.py" in this folder and open the address it prints, or make one page of it: edgecompress bundle MODEL --platform web --single-file -o page.html');
  } else if (!('noModule' in document.createElement('script'))) {
    say('This browser knows no JavaScript modules. Use one of 2023 or later.');
  } else if (typeof WebAssembly !== 'object') {
    say('WebAssembly is switched off or unknown in this browser. Use one of 2023 or later, without a lockdown mode.');
  } else {
    verdict.textContent = 'Checking this bundle on this device.';
    window.addEventListener('error', function (event) {
      var target = event.target;
      if (target && target.tagName === 'SCRIPT' && !window.edgeReport) {
        say((target.getAttribute('src') || 'A script') + ' cannot be loaded. Copy the whole folder.');
      }
    }, true);
  }
})();
