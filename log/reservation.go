package log

import (
	"encoding/binary"
	"fmt"

	"github.com/pulkdb/db/internal/paths"
)

// A Reservation is space in the log for one record. It is filled by Append and
// ended by Complete or Abort, one of which must follow soon: until then nothing
// behind it becomes durable. Between Reserve and that: no waiting, no I/O, no
// second Reserve.
//
// It is a value for one goroutine; a copy is the same reservation.
type Reservation struct {
	buffer *buffer
	data   []byte // the record
	lsn    LSN
	used   int
	kind   recordKind
	index  uint32
	first  LSN
	group  *Group
}

// Reserve takes space for one record in a stream: n is the sum of the
// UpdateSize of its updates. It takes no lock and waits for neither I/O nor
// space. Errors: ErrTooLarge above MaxRecord; ErrClosed; one that wraps
// ErrFailed; ErrReadOnly; ErrState before Start.
func (l *Log) Reserve(s Stream, n int) (Reservation, error) {
	if err := l.writable(); err != nil {
		return Reservation{}, err
	}
	return l.reserve(s, n, recordData)
}

func (l *Log) reserve(s Stream, n int, kind recordKind) (Reservation, error) {
	if n < 0 || n > l.maxRecord {
		return Reservation{}, ErrTooLarge
	}
	header := recordHeaderBytes
	if kind.inGroup() {
		header = recordGroupHeaderBytes
	}
	size := header + n
	b, off, err := l.streams[s].reserve(size, kind != recordMark)
	if err != nil {
		return Reservation{}, err
	}
	return Reservation{
		buffer: b,
		data:   b.data[off : off+size : off+size],
		lsn:    b.base + LSN(off),
		used:   header,
		kind:   kind,
	}, nil
}

// MaxRecord returns the largest n that Reserve takes.
func (l *Log) MaxRecord() int { return l.maxRecord }

// LSN returns where the record begins.
func (r *Reservation) LSN() LSN { return r.lsn }

// Append copies an update into the record and returns its position, which can
// be read after Complete. u.Stamp is ignored: Complete gives it.
//
// REQUIRES: the UpdateSize of all updates of the record is at most what was
// reserved.
func (r *Reservation) Append(u Update) Position {
	size := UpdateSize(u.PID, u.Version, len(u.Payload))
	if size > len(r.data)-r.used || u.Kind == 0 || u.Kind > kindLast {
		panic(fmt.Sprintf("log: Append of %v: %d bytes, %d are reserved", u, size, len(r.data)-r.used))
	}
	putUpdate(r.data[r.used:], u)
	p := Position{LSN: r.lsn + LSN(r.used), Size: uint32(size)}
	r.used += size
	return p
}

// Complete gives the updates their stamp and the record its checksums, and ends
// the reservation. It returns the LSN that must be durable for the record to
// be. In the parts of a group before the last, stamp is 0.
func (r *Reservation) Complete(stamp uint64) LSN {
	b := r.buffer
	clear(r.data[r.used:])
	header := recordHeader{kind: r.kind}.headerBytes()
	seed := b.segment.seed
	for off := header; off < r.used; {
		n := updateBytes(r.data[off:])
		stampUpdate(r.data[off:off+n], r.lsn+LSN(off), seed, stamp)
		off += n
	}
	return r.finish(r.kind)
}

// Abort ends the reservation; replay skips the record.
func (r *Reservation) Abort() {
	paths.Hit(paths.Abort)
	kind := recordAborted
	if r.kind == recordGroupPart {
		r.group.broken = true
	}
	clear(r.data[r.used:])
	r.group = nil
	r.finish(kind)
}

func (r *Reservation) finish(kind recordKind) LSN {
	b := r.buffer
	if b == nil {
		panic("log: reservation ended twice")
	}
	end := r.lsn + LSN(len(r.data))
	sealRecord(r.data, r.lsn, b.segment.seed, kind, LSN(b.stream.durable.Load()), r.first, r.index)
	yield(yieldComplete)
	if r.group != nil && kind == recordGroupLast {
		// Before the record counts as complete, so that a replay start behind
		// it cannot overlook the group (L7).
		r.group.finish(end)
	}
	b.leave()
	*r = Reservation{}
	return end
}

// updateBytes returns the size of the update at the start of p, which this
// process wrote.
func updateBytes(p []byte) int {
	n := updateOffLength
	length, k := binary.Uvarint(p[n:])
	n += k
	_, k = binary.Uvarint(p[n:])
	n += k
	_, k = binary.Uvarint(p[n:])
	return n + k + int(length)
}
