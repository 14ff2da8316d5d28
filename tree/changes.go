package tree

import (
	"bytes"
	"crypto/rand"

	"github.com/pulkdb/db/internal/testhooks"
)

// What has changed since a moment, for incremental backups.
//
// Every version has a stamp, and a leaf states a stamp that none of what it holds is
// above. It stands in the node, in the slot of a page that is not in memory, and in
// page-table snapshots, and recovery has it from the records. So of a leaf whose newest
// stamp is not above that of a moment nothing was written since:
//
//   - a write puts a delta on the leaf, whose stamp is above those of all moments that
//     do not see it; folding and moving a page keep the newest;
//   - keys come to another leaf by a split or a join only. Both replace pages or make
//     new ones, and those get the clock's stamp, which is above that of every moment
//     that was opened before. That is also how a leaf that takes over the range of
//     emptied ones has a stamp not below those of the deletes.
//
// After a crash stamps go on above those that the log has: a moment that was opened
// before it, and after its last record, would have later writes below it. SealMoment
// rules that out.

// ChangedAfter looks at the leaf of key, and says up to which key, hi, it goes, whether
// that is the end of all keys (last), and whether something in it may have changed after
// the moment with the given stamp. If not, nothing from key up to hi has, up to now. A
// leaf that is not in memory is hardly ever read for it. Errors: ErrClosed, and those of
// reading a page.
func (t *Tree) ChangedAfter(key []byte, stamp uint64) (hi []byte, last, changed bool, err error) {
	switch err := t.readable(); {
	case err == ErrNotFound:
		return nil, true, true, nil
	case err != nil:
		return nil, false, false, err
	}
	for {
		hi, last, changed, absent, err := t.tryChangedAfter(key, stamp)
		if err != nil || absent == 0 {
			return hi, last, changed, err
		}
		if err := t.load(absent, false); err != nil {
			return nil, false, false, err
		}
	}
}

func (t *Tree) tryChangedAfter(key []byte, stamp uint64) (hi []byte, last, changed bool, absent PID, err error) {
	g := t.cache.Pin()
	defer g.Unpin()
	p, err := t.descend(g, 0, &seek{key: key}, 0)
	switch {
	case err != nil:
		return nil, false, false, 0, err
	case p.absent == 0:
		hi, last = bytes.Clone(p.node.hi()), p.node.isLast()
	case halfDoneHook != nil || !t.routed(g, &p):
		return nil, false, false, p.absent, nil
	default:
		hi, last = highFence(p.above, key)
	}
	if testhooks.BackupMissEvicted.On() && p.absent != 0 {
		return hi, last, false, 0, nil
	}
	newest, visible := p.view.NewestStamp()
	return hi, last, !visible || newest > stamp, 0, nil
}

// SealMoment makes all that the moment sees durable, and sees to it that no later write,
// nor one after a crash, gets a stamp that is not above the one it returns: that of the
// moment, or, of a store that is read only, one that sees the same.
//
// It writes a tombstone on a key that is not there. Its stamp is above the moment's,
// since that is open, and the clock goes on above it wherever the log goes on.
func (t *Tree) SealMoment(m *Moment) (stamp uint64, err error) {
	switch {
	case t.closed.Load():
		return 0, ErrClosed
	case t.options.Cache.ReadOnly:
		return t.cache.RecoveredClock() - 1, nil
	case t.options.Cache.InMemory:
		return m.Stamp(), nil
	case testhooks.BackupUnsealed.On():
		return m.Stamp(), t.Sync()
	}
	for {
		key := make([]byte, 16)
		_, _ = rand.Read(key) // never fails
		done, err := t.write(key, nil, entryTombstone, expectation{kind: expectAbsent})
		if err != nil {
			return 0, err
		}
		if done {
			return m.Stamp(), t.Sync()
		}
	}
}

// RaiseClock sees to it that later writes have stamps above the given one.
func (t *Tree) RaiseClock(stamp uint64) { t.cache.RaiseClock(stamp) }

// StoreID is the store's, given when it was made.
func (t *Tree) StoreID() [16]byte { return t.cache.StoreID() }

// OwnPages returns how long the row's value is, if it has pages of its own and no
// operands on top. Value would read all of it.
func (it *Iterator) OwnPages() (size int64, ok bool) {
	if it.stand != onRow || it.flags&entryOperand != 0 || it.flags&entryIndirect == 0 {
		return 0, false
	}
	r, ok := readChunks(it.stored)
	return int64(r.total), ok
}

// Clock is the stamp that a version published now would get.
func (t *Tree) Clock() uint64 { return t.cache.Clock() }
