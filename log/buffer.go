package log

import "sync/atomic"

// A buffer is a stretch of log that records are being written to: LSNs from
// base on, in memory. The buffers of a stream form a list, oldest first; the
// last is the stream's current one.
//
// Its state is one word, and the buffer is
//
//	open             reservations add themselves: size, a writer, a record
//	sealed, writers  no more reservations; the writers still copy
//	sealed, none     immutable; the holder of Log.writing writes it to the file
//
// This is race-free because:
//   - reserve is a compare-and-swap that fails once the sealed bit is set, and
//     is the linearization point of a reservation: nobody else has its bytes;
//   - a writer leaves with an atomic subtraction after its last store, so who
//     sees no writers sees what they wrote;
//   - next is set once, by compare-and-swap, after sealing: used is final then,
//     so all candidates agree where the next buffer begins but for its segment;
//   - the memory is a share of a slab and goes back when the last share does:
//     the buffer's own (given back once written and no longer the list's head)
//     and those of readers, who take theirs only while there is another.
//
// The buffer itself is never reused; a stale pointer to one shows its final
// state for as long as somebody holds it.
type buffer struct {
	state atomic.Uint64
	_     [56]byte // state alone is contended

	// Immutable.
	stream  *stream
	segment *segment
	base    LSN
	data    []byte // as long as may be used
	slab    *slab
	slabOff int

	// Atomic.
	next atomic.Pointer[buffer]
}

// The state word: sealed 1 bit, writers 13, records 22, used 28.
const (
	usedBits    = 28
	recordsBits = 22
	writersBits = 13

	oneRecord  = uint64(1) << usedBits
	oneWriter  = uint64(1) << (usedBits + recordsBits)
	sealedFlag = uint64(1) << 63

	recordsMax = 1<<recordsBits - 1
	writersMax = 1<<writersBits - 1
)

func usedOf(state uint64) int    { return int(state & (oneRecord - 1)) }
func recordsOf(state uint64) int { return int(state >> usedBits & recordsMax) }
func writersOf(state uint64) int { return int(state >> (usedBits + recordsBits) & writersMax) }
func isSealed(state uint64) bool { return state&sealedFlag != 0 }

// outcome is what a try to reserve came to.
type outcome uint8

const (
	reserved outcome = iota
	full             // sealed, or sealed now because the record does not fit
	crowded          // too many writers: let them go on
)

// reserve takes size bytes and returns their offset.
func (b *buffer) reserve(size int) (int, outcome) {
	for {
		state := b.state.Load()
		used := usedOf(state)
		switch {
		case isSealed(state):
			return 0, full
		case used+size > len(b.data) || recordsOf(state) == recordsMax:
			b.seal()
			return 0, full
		case writersOf(state) == writersMax:
			return 0, crowded
		}
		yield(yieldReserve)
		if b.state.CompareAndSwap(state, state+uint64(size)+oneRecord+oneWriter) {
			return used, reserved
		}
	}
}

// leave ends a reservation: its bytes are as they will stay.
func (b *buffer) leave() { b.state.Add(^(oneWriter - 1)) }

// seal ends the reservations of b and reports whether this call did.
func (b *buffer) seal() bool {
	for {
		state := b.state.Load()
		if isSealed(state) {
			return false
		}
		yield(yieldSeal)
		if b.state.CompareAndSwap(state, state|sealedFlag) {
			b.stream.queued.Add(int64(usedOf(state)))
			return true
		}
	}
}

// end returns the LSN behind the last reservation so far.
func (b *buffer) end() LSN { return b.base + LSN(usedOf(b.state.Load())) }

// A slab is the memory of buffers that follow each other.
type slab struct {
	data   []byte
	shares atomic.Int64
	pool   *slabPool
}

// acquire takes a share unless the slab has been given back.
func (s *slab) acquire() bool {
	for {
		n := s.shares.Load()
		if n == 0 {
			return false
		}
		if s.shares.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (s *slab) release() {
	if s.shares.Add(-1) == 0 {
		s.pool.put(s.data)
	}
}

// A slabPool keeps the memory of slabs for reuse, in slots that are taken and
// filled by atomic exchange; what finds no slot is left to the collector. The
// slab around the memory is made anew, so that a stale share cannot mistake
// the second life for the first.
type slabPool struct {
	bytes int
	slots []atomic.Pointer[[]byte]
	made  atomic.Int64 // slabs in existence but for those the collector got
}

func newSlabPool(bytes, slots int) *slabPool {
	return &slabPool{bytes: bytes, slots: make([]atomic.Pointer[[]byte], slots)}
}

// get returns a slab with one share. Its bytes are arbitrary.
func (p *slabPool) get() *slab {
	s := &slab{pool: p}
	s.shares.Store(1)
	for i := range p.slots {
		if p.slots[i].Load() == nil {
			continue
		}
		if data := p.slots[i].Swap(nil); data != nil {
			s.data = *data
			return s
		}
	}
	s.data = make([]byte, p.bytes)
	p.made.Add(1)
	return s
}

func (p *slabPool) put(data []byte) {
	for i := range p.slots {
		if p.slots[i].CompareAndSwap(nil, &data) {
			return
		}
	}
	p.made.Add(-1)
}
