package arena

import (
	"sync/atomic"

	"github.com/pulkdb/db/internal/invariant"
)

// A span is a run of pages that holds objects of one class, or one large
// object. Its metadata is the entry of its first page in its chunk; entries of
// the other pages only say how far back that is. Entries are never freed, even
// when their chunk's memory is, so a span id can always be followed.
//
// A span's word has a set bit for each free object. A span is in one of four
// states:
//
//	none      its pages are free, or belong to another span; word is 0
//	current   one stripe of its class allocates from it
//	listed    it is on its class's list of spans with free objects
//	detached  neither; its objects are all taken, or the last Free or the
//	          stripe that left it is about to list it
//
// none -> current and any -> none happen under Arena.mu; the rest is lock-free:
//
//	current -> detached   the stripe's owner, who swapped it out
//	detached -> listed    a CAS; its winner pushes the span
//	listed -> current     whoever popped the span
//
// No span with free objects is lost: who leaves a span stores detached and then
// loads the word; who frees an object sets its bit and then loads the state. One
// of the two sees the other.
//
// The linearization point of Alloc is the CAS that takes a bit, of Free the OR
// that gives it back. The holder of a bit keeps the span from being released,
// because releasing needs the CAS of the word from full to 0.
//
// An allocator may hold the id of a span that meanwhile was released and made a
// span of another class. That is harmless: it learns so after it took a bit
// (the class cannot change while it holds one), gives it back and starts
// again. If the entry is no longer a first page, its word is 0 and there is no
// bit to take.
type span struct {
	// Atomic.
	word  atomic.Uint64
	next  atomic.Uint32 // id of the next listed span; 0 ends the list
	state atomic.Uint32

	// Guarded by Arena.mu while word is 0; immutable while an object is held.
	class uint8
	back  uint16 // pages from here to the span's first page
	pages uint32
}

const (
	stateNone uint32 = iota
	stateCurrent
	stateListed
	stateDetached
)

// take takes one free object and returns its index.
func (s *span) take() (index int, ok bool) {
	for {
		w := s.word.Load()
		if w == 0 {
			return 0, false
		}
		bit := w & -w
		if invariant.Debug {
			invariant.Pause()
		}
		if s.word.CompareAndSwap(w, w^bit) {
			return trailingZeros(bit), true
		}
	}
}

// A spanID names a span by its first page: chunk index, then page index. 0 is
// no span, because chunk 0 is never used.
type spanID uint32

// A spanList is a stack of listed spans, linked through their metadata. Its head
// is a span id and a count of changes, so that a pop which read an old next
// loses its CAS.
type spanList struct {
	head atomic.Uint64
	_    [56]byte
}

func (l *spanList) push(a *Arena, id spanID) {
	s := a.span(id)
	for {
		h := l.head.Load()
		s.next.Store(uint32(h))
		if l.head.CompareAndSwap(h, nextHead(h, id)) {
			return
		}
	}
}

// pop returns a span that had free objects when it was listed, or 0. The caller
// owns it.
func (l *spanList) pop(a *Arena) spanID {
	for {
		h := l.head.Load()
		id := spanID(h)
		if id == 0 {
			return 0
		}
		next := spanID(a.span(id).next.Load())
		if invariant.Debug {
			invariant.Pause()
		}
		if l.head.CompareAndSwap(h, nextHead(h, next)) {
			return id
		}
	}
}

// takeAll empties the list and returns its first span; the caller owns all of
// them and may follow their next.
func (l *spanList) takeAll() spanID {
	for {
		h := l.head.Load()
		if spanID(h) == 0 || l.head.CompareAndSwap(h, nextHead(h, 0)) {
			return spanID(h)
		}
	}
}

func nextHead(h uint64, id spanID) uint64 { return (h>>32+1)<<32 | uint64(id) }
