package pagecache

import "sync/atomic"

// A mark says of a page what the evictor has to know. It is one word of the page's
// bottom node:
//
//	touched    the page was viewed since the hand last passed
//	loaded     it was brought into memory and nobody has viewed it since: the view
//	           for the sake of which it was loaded does not count
//	probation  it is in a queue of those that were loaded (see probation.go)
//	ghost      of a page that is not in memory: it was evicted when its probation
//	           ended. If it is loaded again before the hand comes by, it was worth
//	           keeping, and has no second probation
//	level      in how many of the hand's last rounds it was touched, about: the hand
//	           adds one to that of a touched page, up to markLevelMax, and takes one
//	           off that of others; at 0 the page goes
//
// So a page that is read once goes soon, and one that is read in every round stays
// for markLevelMax rounds after it was last read. Who looks at pages for other
// reasons than to read them once more uses Peek, which leaves no mark.
//
// A view of a page whose mark says touched writes nothing. Level and probation are
// changed by who sweeps, by compare-and-swap. A page that is folded takes its mark along,
// so it may be on probation for the mark and in no queue: the hand, when it comes by,
// ends that.
type mark struct{ word atomic.Uint32 }

const (
	markTouched   = 1 << 0
	markLoaded    = 1 << 1
	markProbation = 1 << 2
	markGhost     = 1 << 3
	markLevelOne  = 1 << 4
	markLevelMax  = 3
)

// isTouched reports whether a view need not write.
func (m *mark) isTouched() bool { return m.word.Load()&(markTouched|markLoaded) == markTouched }

// touch notes a view. It may be lost to another one, or to the hand.
func (m *mark) touch() {
	w := m.word.Load()
	next := w | markTouched
	if w&markLoaded != 0 {
		next = w &^ markLoaded
	}
	m.word.CompareAndSwap(w, next)
}

// pass notes that the hand comes by, and reports whether it spares the page. With
// once, it does so only if the page was touched since it came by last.
func (m *mark) pass(once bool) (spared bool) {
	for {
		w := m.word.Load()
		level := w / markLevelOne
		var next uint32
		switch {
		case w&(markProbation|markLoaded) != 0:
			next, spared = w&^(markProbation|markLoaded), true
		case w&markTouched != 0 && once:
			next, spared = w&markGhost, true
		case w&markTouched != 0:
			next, spared = min(level+1, markLevelMax)*markLevelOne, true
		case level > 0 && !once:
			next, spared = (level-1)*markLevelOne, true
		default:
			return false
		}
		if m.word.CompareAndSwap(w, next) {
			return spared
		}
	}
}

// release ends the page's probation, and reports whether it is to be kept.
func (m *mark) release() (kept bool) {
	for {
		w := m.word.Load()
		kept = w&markTouched != 0
		next := w &^ (markProbation | markLoaded | markTouched)
		if kept {
			next |= markLevelOne
		}
		if m.word.CompareAndSwap(w, next) {
			return kept
		}
	}
}

// setLoaded is for a page that is being loaded, and begins its probation if it has
// one.
func (m *mark) setLoaded(probation bool) {
	m.word.Store(markLoaded)
	if probation {
		m.word.Store(markLoaded | markProbation)
	}
}

func (m *mark) setGhost() { m.word.Store(markGhost) }

func (m *mark) isGhost() bool { return m.word.Load()&markGhost != 0 }

// forgetGhost notes that the hand comes by a page that is not in memory.
func (m *mark) forgetGhost() {
	if m.isGhost() {
		m.word.And(^uint32(markGhost))
	}
}

// take makes m what other is.
func (m *mark) take(other *mark) { m.word.Store(other.word.Load()) }

func (m *mark) clear() { m.word.Store(0) }
