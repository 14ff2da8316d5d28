package arena

import (
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/pulkdb/db/internal/invariant"
)

// A Ref names an object: the index of its chunk and the offset in it. It is a
// multiple of 16, below 1<<47, and 0 names nothing (A3).
type Ref uint64

// Options are the settings of New. The zero value is good.
type Options struct {
	// MaxBytes limits what is mapped. Unit: bytes; 0: no limit. Above it
	// Alloc returns 0, as it does when the system has no memory.
	MaxBytes int64
}

// maxStripes bounds how many spans of one class are allocated from at once.
const maxStripes = 8

// A stripe is where some of the goroutines allocate objects of one class.
type stripe struct {
	current atomic.Uint32 // spanID; 0 is none
	_       [60]byte
}

// A Kind is what its owner says that an object is for: Used is kept of each kind.
type Kind uint8

// Kinds is how many kinds there are.
const Kinds = 8

// A counter is one stripe of Used, by kind. It fills a cache line.
type counter struct {
	bytes [Kinds]atomic.Int64
}

func (c *counter) add(k Kind, n int) { c.bytes[k%Kinds].Add(int64(n)) }

// An Arena hands out memory that the garbage collector does not see. All
// methods but Close may be called by any goroutine at any time.
type Arena struct {
	// Immutable after New.
	maxBytes int64
	masks    [numClasses]uint8 // stripes in use of each class, less one

	// memory has the address of each chunk. An entry is written, under mu,
	// before the first Ref into its chunk is returned, and cleared when no
	// object is left there, so whoever holds a Ref may load it plainly.
	memory [maxChunks]unsafe.Pointer

	// Atomic.
	chunks    [maxChunks]atomic.Pointer[chunk] // nil until first used; then for ever
	stripes   [numClasses][maxStripes]stripe
	partial   [numClasses]spanList // spans with free objects
	used      [maxStripes]counter
	committed atomic.Int64
	held      atomic.Int64
	idle      atomic.Int64 // of committed: the system has the memory

	freed origins // in debug builds

	mu        sync.Mutex
	numChunks int // Guarded by mu. Indices below it have metadata.
	firstOpen int // Guarded by mu. No chunk before it has free pages.
}

// New returns an empty Arena. It maps nothing until the first Alloc.
func New(o Options) *Arena {
	a := &Arena{maxBytes: o.MaxBytes, numChunks: 1, firstOpen: 1}
	stripes := min(1<<bits.Len(uint(runtime.GOMAXPROCS(0)*4-1)), maxStripes) // so that few share one
	for c := range a.masks {
		n := stripes
		switch size := classes[c].size; {
		case size > 1<<10:
			n = 1 // filling such an object dwarfs a contended CAS, and spans are large
		case size > 256:
			n = max(1, n/2)
		}
		a.masks[c] = uint8(n - 1)
	}
	return a
}

// Pointer returns the address of r's first byte.
// REQUIRES: r is live, or retired and still protected by a guard.
func (a *Arena) Pointer(r Ref) unsafe.Pointer {
	return unsafe.Add(a.memory[r>>chunkShift&(maxChunks-1)], r&(chunkBytes-1))
}

// Bytes returns n bytes of the object at offset off. They belong to whoever
// owns r, and only as long as r lives.
func (a *Arena) Bytes(r Ref, off, n int) []byte {
	if invariant.Debug {
		a.checkRange(r, off, n)
	}
	return unsafe.Slice((*byte)(unsafe.Add(a.Pointer(r), off)), n)
}

// Word returns the 64-bit word at offset off. REQUIRES: off is a multiple of 8.
func (a *Arena) Word(r Ref, off int) *atomic.Uint64 {
	if invariant.Debug {
		invariant.Check(off%8 == 0, "arena: word not aligned")
		a.checkRange(r, off, 8)
	}
	return (*atomic.Uint64)(unsafe.Add(a.Pointer(r), off))
}

// Word32 returns the 32-bit word at offset off. REQUIRES: off is a multiple of 4.
func (a *Arena) Word32(r Ref, off int) *atomic.Uint32 {
	if invariant.Debug {
		invariant.Check(off%4 == 0, "arena: word not aligned")
		a.checkRange(r, off, 4)
	}
	return (*atomic.Uint32)(unsafe.Add(a.Pointer(r), off))
}

// Alloc returns an object of at least n bytes, aligned to 16, and of kind 0. Its
// contents are undefined. It returns 0 when there is no memory to be had.
func (a *Arena) Alloc(n int) Ref { return a.AllocAs(n, 0) }

// AllocAs is Alloc of an object of kind k.
func (a *Arena) AllocAs(n int, k Kind) Ref {
	if n > maxClassBytes {
		return a.allocLarge(n, k)
	}
	c := classOf(n)
	h := stripeHash()
	st := &a.stripes[c][h&uint64(a.masks[c])]
	if id := spanID(st.current.Load()); id != 0 {
		if r := a.takeFrom(id, c); r != 0 {
			a.used[h%maxStripes].add(k, int(classes[c].size))
			return r
		}
	}
	r := a.refill(c, st)
	if r != 0 {
		a.used[h%maxStripes].add(k, int(classes[c].size))
	}
	return r
}

// Free gives an object of kind 0 back. The caller must not use r any more, and
// nobody else may still read it.
func (a *Arena) Free(r Ref) { a.FreeAs(r, 0) }

// FreeAs is Free of an object of kind as.
func (a *Arena) FreeAs(r Ref, as Kind) {
	c, id, s := a.find(r)
	if invariant.Debug {
		a.freed.note(r)
	}
	if s.class == classLarge {
		a.freeLarge(r, c, id, s, as)
		return
	}
	k := &classes[s.class]
	off := uint64(r) - uint64(refOf(id))
	index := off * k.inverse >> 40
	if invariant.Debug {
		invariant.Check(off == index*uint64(k.size), "arena: Free of a reference into an object")
		a.poison(r, int(k.size))
	}
	a.used[stripeHash()%maxStripes].add(as, -int(k.size))
	a.giveBack(s, id, uint64(1)<<(index&63))
}

// Size returns the usable bytes of the object, at least what Alloc was asked for.
func (a *Arena) Size(r Ref) int {
	_, _, s := a.find(r)
	if s.class == classLarge {
		return int(s.pages) * pageBytes
	}
	return int(classes[s.class].size)
}

// SetKind makes an object of kind from one of kind to, and returns its size.
func (a *Arena) SetKind(r Ref, from, to Kind) int {
	n := a.Size(r)
	c := &a.used[stripeHash()%maxStripes]
	c.add(from, -n)
	c.add(to, n)
	return n
}

// Used returns the bytes in live objects, as Size counts them. It is exact when
// no call is under way (A4).
func (a *Arena) Used() int64 {
	var n int64
	for i := range a.used {
		for k := range a.used[i].bytes {
			n += a.used[i].bytes[k].Load()
		}
	}
	return n
}

// UsedBut returns the bytes in live objects of all kinds but k, and of k.
func (a *Arena) UsedBut(k Kind) (others, those int64) {
	for i := range a.used {
		for j := range a.used[i].bytes {
			others += a.used[i].bytes[j].Load()
		}
		those += a.used[i].bytes[k%Kinds].Load()
	}
	return others - those, those
}

// UsedAs returns the bytes in live objects of one kind.
func (a *Arena) UsedAs(k Kind) int64 {
	var n int64
	for i := range a.used {
		n += a.used[i].bytes[k%Kinds].Load()
	}
	return n
}

// Held returns the bytes of the spans that objects live in: Used, and what is
// free but reserved for one size class.
func (a *Arena) Held() int64 { return a.held.Load() }

// Committed returns the bytes obtained from the system and not given back.
func (a *Arena) Committed() int64 { return a.committed.Load() }

// Resident returns the bytes of Committed that the system has memory for: all that is
// held, and free pages that were used before and not given back by ReleaseFree. Where
// the system has huge pages it may be a little more.
func (a *Arena) Resident() int64 { return a.committed.Load() - a.idle.Load() }

// Close gives all memory back. REQUIRES: no other call is under way or follows,
// and no Ref is used any more.
func (a *Arena) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := 1; i < a.numChunks; i++ {
		c := a.chunks[i].Load()
		if c.memory != nil {
			a.unmap(i, c)
		}
	}
}

// span returns the metadata of the span that begins at id's page.
func (a *Arena) span(id spanID) *span {
	return a.chunks[id/pagesPerChunk%maxChunks].Load().spanOf(uint32(id))
}

// refOf returns the address of the first object of a span.
func refOf(id spanID) Ref { return Ref(id) << pageShift }

// find returns the chunk and span of an object.
func (a *Arena) find(r Ref) (*chunk, spanID, *span) {
	c := a.chunks[r>>chunkShift&(maxChunks-1)].Load()
	id := spanID(r >> pageShift)
	s := c.spanOf(uint32(id))
	if s.back != 0 {
		id -= spanID(s.back)
		s = c.spanOf(uint32(id))
	}
	return c, id, s
}

// takeFrom takes an object of class c from span id, if it has one.
func (a *Arena) takeFrom(id spanID, c int) Ref {
	if invariant.Debug {
		invariant.Pause()
	}
	s := a.span(id)
	index, ok := s.take()
	if !ok {
		return 0
	}
	if int(s.class) != c { // released and reused since the caller saw its id
		a.giveBack(s, id, uint64(1)<<index)
		return 0
	}
	r := refOf(id) + Ref(uint32(index)*classes[c].size)
	if invariant.Debug {
		a.checkPoison(r, int(classes[c].size))
		a.freed.forget(r)
	}
	return r
}

// giveBack frees the object of one bit, and lists the span if nobody else would
// find that object.
func (a *Arena) giveBack(s *span, id spanID, bit uint64) {
	old := s.word.Or(bit)
	if invariant.Debug {
		invariant.Pause()
	}
	invariant.Check(old&bit == 0, "arena: object freed twice")
	a.listIfDetached(s, id)
}

// leave drops a span that the caller owns.
func (a *Arena) leave(s *span, id spanID) {
	s.state.Store(stateDetached)
	if invariant.Debug {
		invariant.Pause()
	}
	if s.word.Load() != 0 {
		a.listIfDetached(s, id)
	}
}

// listIfDetached puts a detached span on its class's list. The span may have
// been released and made another one since the caller touched its word: the
// class counts that it has once the CAS has made the caller its owner.
func (a *Arena) listIfDetached(s *span, id spanID) {
	if s.state.Load() == stateDetached && s.state.CompareAndSwap(stateDetached, stateListed) {
		a.partial[s.class].push(a, id)
	}
}

// stripeHash returns a number that differs between goroutines that run at the
// same time, mostly, and costs next to nothing: a hash of the stack's address.
func stripeHash() uint64 {
	var here byte
	return uint64(uintptr(unsafe.Pointer(&here))>>11) * 0x9e3779b97f4a7c15 >> 40
}
