package log

import (
	"sync/atomic"
)

// A stream is the writing end of one Stream: a list of buffers, from head, the
// oldest that is not written, to current.
type stream struct {
	// Immutable after Start.
	log *Log
	id  Stream

	// Atomic.
	current atomic.Pointer[buffer] // or one shortly before it: next leads on
	head    atomic.Pointer[buffer] // changed by the holder of Log.writing
	queued  atomic.Int64           // bytes in sealed buffers from head on
	durable atomic.Uint64          // LSN; changed by the holder of Log.syncing
	wanted  atomic.Uint64          // LSN that somebody waits for
	prefix  atomic.Uint64          // LSN; highest completed prefix found
	records atomic.Uint64          // in buffers that were written
	_       [64]byte

	// Owned by the holder of Log.writing.
	last        *segment    // the newest whose file exists
	dirty       []dirtyFile // written since they were last synced
	newNames    bool        // a file of this stream was created since the last SyncDir
	retired     []*segment  // recycled, to be removed once a newer header is durable
	lastDurable *segment    // the newest whose header and name are synced
	markedTo    LSN         // the log ends here with a mark that covers all
}

// reserve takes size bytes of the stream.
func (st *stream) reserve(size int, check bool) (*buffer, int, error) {
	for {
		b := st.current.Load()
		off, outcome := b.reserve(size)
		switch outcome {
		case reserved:
			return b, off, nil
		case crowded:
			spin()
		case full:
			if check {
				if err := st.log.writable(); err != nil {
					return nil, 0, err
				}
			}
			st.advance(b, size)
			kick(st.log.flusherKick)
		}
	}
}

// advance makes the buffer after b, which is sealed, current, and creates it if
// nobody has; a record of size bytes fits in a buffer that this call creates.
func (st *stream) advance(b *buffer, size int) *buffer {
	next := b.next.Load()
	for next == nil {
		c := st.candidate(b, size)
		if c == nil {
			next = b.next.Load()
			continue
		}
		yield(yieldAdvance)
		if b.next.CompareAndSwap(nil, c) {
			if c.segment != b.segment {
				c.segment.linked.Store(true)
				b.segment.end.Store(uint64(b.end()))
			}
			next = c
			break
		}
		if c.segment != b.segment {
			st.log.table.remove(st.log.number(c.base))
		}
		c.slab.release()
		next = b.next.Load()
	}
	yield(yieldAdvance)
	// It may be far behind by now; then this fails.
	st.current.CompareAndSwap(b, next)
	return next
}

// candidate makes a buffer to follow b: in the same segment if size fits there,
// in the same slab if size fits there. It returns nil when b's slab is given
// back, which happens only after b has a next.
//
// The number of a new segment that is not used in the end stays unused: the
// headers chain the segments of a stream, so gaps mean nothing (L2).
func (st *stream) candidate(b *buffer, size int) *buffer {
	l := st.log
	c := &buffer{stream: st, segment: b.segment, base: b.end()}
	segmentEnd := b.segment.base + LSN(l.segmentBytes)
	off := b.slabOff + usedOf(b.state.Load())
	if len(b.slab.data)-off >= size {
		if !b.slab.acquire() {
			return nil
		}
		c.slab, c.slabOff = b.slab, off
	} else {
		c.slab = l.slabs.get()
	}
	if segmentEnd-c.base < LSN(size) {
		c.segment = l.newSegment(st.id)
		c.base = c.segment.base + headerBytes
		segmentEnd = c.segment.base + LSN(l.segmentBytes)
	}
	c.data = c.slab.data[c.slabOff:]
	if rest := segmentEnd - c.base; LSN(len(c.data)) > rest {
		c.data = c.data[:rest]
	}
	return c
}

// newSegment takes the next number and puts a segment in the table, not linked
// yet.
func (l *Log) newSegment(id Stream) *segment {
	number := l.nextSegment.Add(1) - 1
	s := &segment{
		base:        LSN(number * l.segmentBytes),
		incarnation: l.incarnation,
		seed:        l.seed,
		stream:      id,
	}
	s.written.Store(uint64(s.base) + headerBytes)
	l.table.put(number, s)
	return s
}

// tail returns the LSN behind the last reservation.
func (st *stream) tail() LSN {
	b := st.current.Load()
	for {
		next := b.next.Load()
		if next == nil {
			return b.end()
		}
		b = next
	}
}

// completedPrefix returns an LSN below which all reservations are complete. It
// never decreases: what was complete once is complete.
func (st *stream) completedPrefix() LSN {
	storeMax(&st.prefix, uint64(st.completedNow()))
	return LSN(st.prefix.Load())
}

// completedNow is coarse: it ends before the first buffer that has a writer.
func (st *stream) completedNow() LSN {
	b := st.head.Load()
	for {
		// Next first: a buffer that has one is sealed, and its state final
		// but for its writers.
		next := b.next.Load()
		state := b.state.Load()
		if writersOf(state) > 0 {
			return b.base
		}
		if next == nil {
			return b.base + LSN(usedOf(state))
		}
		b = next
	}
}

// Tail returns the LSN behind all that is reserved in a stream.
func (l *Log) Tail(s Stream) LSN {
	if !l.started.Load() {
		return l.recoveredEnd[s]
	}
	return l.streams[s].tail()
}

// Durable returns the LSN below which a stream is synced. It never decreases.
func (l *Log) Durable(s Stream) LSN {
	if !l.started.Load() {
		return l.recoveredEnd[s]
	}
	if l.options.Discard {
		return l.streams[s].tail()
	}
	return LSN(l.streams[s].durable.Load())
}

// CompletedPrefix returns an LSN below which every reservation of a stream is
// completed or aborted. It never decreases.
func (l *Log) CompletedPrefix(s Stream) LSN {
	if !l.started.Load() {
		return l.recoveredEnd[s]
	}
	return l.streams[s].completedPrefix()
}
