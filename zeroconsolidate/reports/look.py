"""The style and the script of every page.

Colours are variables, of which a dark screen has others. Each pair of text and background has a contrast of at least
4.5 to 1, and no colour is the only sign of anything: whatever is coloured has a text, too.
"""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--paper:#fff;--line:#d0d7de;--band:#f6f8fa;--focus:#0550ae;
--bad:#a40e26;--badback:#ffebe9;--good:#116329;
--h0:#eef1f4;--h1:#cfe3f7;--h2:#9cc8ee;--h3:#5fa3dc;--h4:#2f78bd;--h5:#1d4f8b;--h6:#a40e26;
--k0:#8250df;--k1:#0969da;--k2:#1b7f83;--k3:#4d7c0f;--k4:#9a6700;--k5:#8c959f;--k6:#bf3989;--k7:#bc4c00;--k8:#57606a}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9da7b3;--paper:#0d1117;--line:#30363d;--band:#161b22;
--focus:#79c0ff;--bad:#ff9a93;--badback:#3c1618;--good:#6fdd8b;
--h0:#21262d;--h1:#12324f;--h2:#1a4a78;--h3:#2a6cb0;--h4:#58a0e4;--h5:#a5d1ff;--h6:#ff7b72;
--k0:#bc8cff;--k1:#58a6ff;--k2:#56c8cc;--k3:#9bd14b;--k4:#e3b341;--k5:#8b949e;--k6:#f778ba;--k7:#ffa657;--k8:#9da7b3}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem;max-width:72rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2rem 0 .5rem;border-bottom:1px solid var(--line);padding-bottom:.25rem}
p{margin:.25rem 0 .5rem;max-width:60rem}
.lead{font-size:1.1rem}.bad{color:var(--bad);font-weight:600}.good{color:var(--good);font-weight:600}
.soft{color:var(--soft)}
code,td.name,th.name{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace;
font-size:.9em;overflow-wrap:anywhere}
ul.findings{list-style:none;padding:0;margin:.5rem 0}
ul.findings li{border-left:4px solid var(--bad);background:var(--badback);padding:.4rem .75rem;margin:.35rem 0;
overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:.5rem 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
figure{margin:1rem 0}figcaption{color:var(--soft);margin-top:.25rem}
svg{width:100%;height:auto;display:block;background:var(--paper)}
svg text{font:12px system-ui,-apple-system,"Liberation Sans",sans-serif;fill:var(--ink)}
svg .axis{stroke:var(--line);stroke-width:1}
.h0{fill:var(--h0)}.h1{fill:var(--h1)}.h2{fill:var(--h2)}.h3{fill:var(--h3)}.h4{fill:var(--h4)}.h5{fill:var(--h5)}
.h6{fill:var(--h6)}.k0{fill:var(--k0)}.k1{fill:var(--k1)}.k2{fill:var(--k2)}.k3{fill:var(--k3)}.k4{fill:var(--k4)}
.k5{fill:var(--k5)}.k6{fill:var(--k6)}.k7{fill:var(--k7)}.k8{fill:var(--k8)}
.lost{fill:var(--h6)}
ul.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1rem;padding:0;margin:.5rem 0}
ul.legend svg{width:.9em;height:.9em;display:inline-block;vertical-align:-.1em;margin-right:.35em}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding:.25rem 0}
th,td{padding:.25rem .6rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
thead th{background:var(--band);position:sticky;top:0}
td.n,th.n{text-align:right;white-space:nowrap}
tbody th{font-weight:400;min-width:17rem}
th button{font:inherit;color:inherit;background:none;border:0;padding:0;cursor:pointer;font-weight:600}
th button::after{content:" \\2195";color:var(--soft)}
th[aria-sort=ascending] button::after{content:" \\2191"}th[aria-sort=descending] button::after{content:" \\2193"}
:focus-visible{outline:3px solid var(--focus);outline-offset:2px}
footer{margin-top:2rem;color:var(--soft);font-size:.9rem}
.hidden{position:absolute;left:-9999px}a.hidden:focus{position:static}
@media print{body{max-width:none;padding:0;font-size:11px}thead th{position:static}thead{display:table-header-group}
tr,figure,li{break-inside:avoid}th button::after{content:""}.scroll{overflow:visible}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
""".strip()

SCRIPT = """
document.querySelectorAll("table.sortable").forEach(function(table){
var body=table.tBodies[0],heads=Array.from(table.tHead.rows[0].cells);
heads.forEach(function(head,place){
var button=document.createElement("button");button.type="button";button.textContent=head.textContent;
head.textContent="";head.appendChild(button);head.setAttribute("aria-sort","none");
button.addEventListener("click",function(){
var up=head.getAttribute("aria-sort")==="descending",number=head.classList.contains("n");
heads.forEach(function(other){other.setAttribute("aria-sort","none")});
head.setAttribute("aria-sort",up?"ascending":"descending");
var rows=Array.from(body.rows).map(function(row){var cell=row.cells[place];
var value=cell.dataset.v===undefined?cell.textContent:cell.dataset.v;
return [number?(value===""?-Infinity:Number(value)):value,row]});
rows.sort(function(a,b){var order=number?(a[0]<b[0]?-1:a[0]>b[0]?1:0):a[0].localeCompare(b[0],"en",{numeric:true});
return up?order:-order});
rows.forEach(function(pair){body.appendChild(pair[1])});
})})});
""".strip()
