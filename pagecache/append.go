package pagecache

import (
	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/log"
)

// An Outcome says what became of an update.
type Outcome uint8

const (
	Done    Outcome = iota + 1 // the page is changed
	Changed                    // the page had changed: take a new View
	Gone                       // the PID is not in use any more
)

func (o Outcome) String() string {
	switch o {
	case Done:
		return "done"
	case Changed:
		return "changed"
	case Gone:
		return "gone"
	}
	return "outcome?"
}

// A Result is what an update returns.
type Result struct {
	Outcome Outcome
	LSN     LSN // durable up to here means that the update is; for WaitDurable
	Deltas  int // on the page now, its own included
	Size    int // of the page now: see View.Size
	Reads   int // places of the log that loading the page would read, were it evicted now
	Logged  int // bytes it would read, for a page that is not in memory; else 0
}

// MaxFragment is the largest fragment, in bytes, that fits one record of the log.
func (c *Cache) MaxFragment() int { return c.log.MaxRecord() - fragmentHeaderMax }

// fragmentHeaderMax is the most that the log adds to a fragment, in bytes.
const fragmentHeaderMax = 48

// Append puts one delta on the page, if the page still is as v shows; the
// compare-and-swap of its slot is the linearization point. The delta is copied.
// hint is given back by Delta.Hint. The page need not be resident.
//
// The delta is visible when Append returns and durable when
// WaitDurable(Result.LSN) does. An error means that the log has failed or is
// closed and nothing was changed.
//
// REQUIRES: g is pinned since before v was taken.
func (c *Cache) Append(g epoch.Guard, v View, delta []byte, hint uint16) (Result, error) {
	slot := c.table.slot(v.pid)
	if v.Owned() {
		spin()
		return c.changed(v), nil
	}
	if slot.Load() != v.word {
		return c.changed(v), nil
	}
	if top := v.top(); top != nil {
		// Stamps grow along a chain: what lies below is stamped first.
		if _, visible := c.stampOf(top); !visible {
			return c.changed(v), nil
		}
	}
	k := c.carveDelta(v.word, delta, hint)
	d := k.node
	d.cell.Store(0)
	r, err := c.log.Reserve(log.Fresh, log.UpdateSize(v.pid, d.version, len(delta)))
	if err != nil {
		k.drop(c)
		return Result{}, err
	}
	p := r.Append(log.Update{PID: v.pid, Version: d.version, Kind: log.KindAppend, Payload: delta})
	d.lsn, d.size = uint64(p.LSN), p.Size
	yield(yieldAppendPublish)
	if !slot.CompareAndSwap(v.word, k.ref) {
		r.Abort()
		k.drop(c)
		paths.Hit(paths.PublishLost)
		c.metrics.conflicts.Add(1)
		return c.changed(v), nil
	}
	stamp, _ := c.stampOf(d)
	c.noteLogged(v.pid, p)
	end := r.Complete(stamp)
	if k.fresh != 0 {
		c.noteGrowth()
	}
	done := Result{Outcome: Done, LSN: end, Deltas: int(d.count), Size: int(v.bottom.length + d.bytes), Reads: int(v.bottom.positions + d.count)}
	if !v.Resident() {
		inLog, _ := v.LogBytes()
		done.Logged = inLog + int(d.size)
	}
	return done, nil
}

// changed tells Changed from Gone.
func (c *Cache) changed(v View) Result {
	word := c.table.slot(v.pid).Load()
	if word&slotRefMask == 0 || c.headerAt(word).kind == nodeFree {
		return Result{Outcome: Gone}
	}
	return Result{Outcome: Changed}
}
