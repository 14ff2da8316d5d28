package snapshot

import (
	"errors"
	"fmt"

	"github.com/pulkdb/db/log"
)

// What Create, Load and accept work with beside the errors of package log.
var (
	// ErrRefused: an accept function wraps it to say "not this one, an older
	// one if there is any". Any other error of accept ends Load.
	ErrRefused = errors.New("snapshot: refused")
	// ErrOrder: Add was called with a PID not above the last, or Commit with a
	// MaxPID below it.
	ErrOrder = errors.New("snapshot: PIDs not ascending")
	// ErrSlot: Add was called with a slot that cannot be stored.
	ErrSlot = errors.New("snapshot: invalid slot")
	// ErrDone: the Writer was committed or discarded.
	ErrDone = errors.New("snapshot: writer is finished")
)

// A State says what a PID is. The numbers are persisted.
type State uint8

// The states. 0 is invalid; a PID that was never used has no slot.
const (
	Used State = 1 // a page
	Free State = 2 // was a page, and may be one again
)

// String is the state's name.
func (s State) String() string {
	switch s {
	case Used:
		return "used"
	case Free:
		return "free"
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// A Slot is what the mapping table knows of one PID.
type Slot struct {
	PID     log.PID
	State   State
	Version uint64 // of the page; never restarts, not even when it is freed
	Stamp   uint64 // the newest on the page
	Flags   uint8  // the page cache's
	// Positions of the page's fragments, base first; at least one if Used. If
	// Free, that of the record that freed it, where known.
	Positions []log.Position
}

// String gives the slot on one line.
func (s Slot) String() string {
	return fmt.Sprintf("%d %v v%d stamp %d flags %#x %v", s.PID, s.State, s.Version, s.Stamp, s.Flags, s.Positions)
}

// A Recovery is what the materializer said of one tree: the state with the
// highest generation, and the page that it came from.
type Recovery struct {
	Tree       uint64
	Generation uint64
	PID        log.PID
	State      []byte
}

// A SegmentRef names a log segment that the snapshot's positions are in.
type SegmentRef struct {
	Base        log.LSN
	Incarnation uint64
}

// An Identity says what a file belongs to. All its checksums depend on it.
type Identity struct {
	StoreID     [16]byte
	Incarnation uint64 // of the writing Open
	Sequence    uint64 // counts snapshots of a store; the file's name
	Parent      Link   // the snapshot that this one is a difference to; zero: a base
}

// A Link names one committed snapshot, so that another file of the same sequence
// does not pass for it.
type Link struct {
	Sequence    uint64
	Incarnation uint64
	Checksum    uint32 // of the footer
}

// A File is one of the files that a snapshot is composed of.
type File struct {
	Link
	Bytes int64
	Slots uint64
}

// A Header holds the facts of a snapshot beside its slots. They are those of the
// whole snapshot, in a difference too.
type Header struct {
	Identity
	ReplayStart log.Marks // replay from here brings the slots up to date
	DurableMark log.Marks // the log was durable up to here
	MaxPID      log.PID   // no PID above it was ever used
	Clock       uint64    // of stamps
	Recovery    []Recovery
	Segments    []SegmentRef // what falling back to this file needs
}
