// What a chapter folds under a heading (tools/fold.py) is folded here, too; without this script it
// is simply there. A link to something inside opens it, and so does the search of the browser.
document.addEventListener('DOMContentLoaded', () => {
  for (const mark of document.querySelectorAll('.folded-below')) {
    const details = document.createElement('details'), summary = document.createElement('summary')
    summary.textContent = 'Unfold'
    details.className = 'folded'
    details.append(summary)
    details.addEventListener('toggle', () => {
      summary.textContent = details.open ? 'Fold' : 'Unfold'
    })
    while (mark.nextSibling) details.append(mark.nextSibling)
    mark.replaceWith(details)
  }
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)))
    if (!target) return
    for (let at = target.parentElement; at; at = at.parentElement) {
      if (at.matches('details.folded')) at.open = true
    }
    target.scrollIntoView({ behavior: 'instant' })
  }
  addEventListener('hashchange', reveal)
  if (location.hash) reveal()
  for (const img of document.querySelectorAll('.bd-article img')) { // see the end of docs.css
    const known = () => img.classList.toggle('wide', img.naturalWidth > 560)
    if (img.complete) known()
    else img.addEventListener('load', known)
  }
  addEventListener('beforeprint', () => {
    for (const d of document.querySelectorAll('details.folded')) d.open = true
  })
})
