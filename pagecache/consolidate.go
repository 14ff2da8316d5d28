package pagecache

import (
	"cmp"
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/pulkdb/db/internal/arena"
	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/log"
)

// Consolidation folds a page's deltas into its base. It changes neither the
// page's contents nor its version; the new base states the version it contains.
//
// In memory only, the new base keeps the positions of all that it was folded
// from: reading the page back reads those. Once the deltas in the log add up to a
// share of the base there (Options.RewriteShare), the merged page is written to
// the log instead, and the positions shrink to one.
//
// Deltas that were appended while the merge ran are kept: they are copied on top
// of the new base, which takes no merging and little time, so a busy page is
// consolidated however busy it is. After a few lost compare-and-swaps the writer
// bit ends the race.

const (
	consolidateTriesMax = 3
	// mergeDeltasKept is MergeDeltas for pages that are evicted last: those are
	// read far more often than they change.
	mergeDeltasKept = 3
)

// Maintain consolidates the page if a threshold is passed: by number of deltas in
// memory (Options.MergeDeltas), by bytes of deltas in the log to the log. It is
// called after an Append whose Result says Deltas >= MergeDeltas. It does
// nothing to a page that is not resident or that somebody owns.
func (c *Cache) Maintain(g epoch.Guard, pid PID) error {
	v, err := c.Peek(g, pid)
	if err != nil || !v.Resident() || v.Owned() {
		return ignoreGone(err)
	}
	toLog := c.shouldRewrite(v)
	threshold := c.options.MergeDeltas
	if v.bottom.flags&nodeKeep != 0 {
		threshold = min(threshold, mergeDeltasKept)
	}
	if !toLog && v.Deltas() < threshold {
		return nil
	}
	_, err = c.consolidate(g, v, toLog)
	return err
}

// Fold consolidates the page in memory, whatever its deltas, if it is resident
// and nobody owns it: before its owner looks at the size of the base.
func (c *Cache) Fold(g epoch.Guard, pid PID) error {
	v, err := c.Peek(g, pid)
	if err != nil || !v.Resident() || v.Owned() || v.Deltas() == 0 {
		return ignoreGone(err)
	}
	_, err = c.consolidate(g, v, false)
	return err
}

// TryFold is Fold for readers, who wait for nobody and write nothing: a page that
// would free others when it is folded stays as it is.
func (c *Cache) TryFold(g epoch.Guard, pid PID) error {
	v, err := c.Peek(g, pid)
	if err != nil || !v.Resident() || v.Owned() || v.Deltas() == 0 {
		return ignoreGone(err)
	}
	_, err = c.fold(g, v, false, log.Fresh, false)
	return err
}

// Consolidate folds the page, whatever its deltas, if it is resident and nobody
// owns it: for an owner who knows that it will become smaller. With toLog it is
// written to the log, and what that had of it is given back.
func (c *Cache) Consolidate(g epoch.Guard, pid PID, toLog bool) error {
	v, err := c.Peek(g, pid)
	if err != nil || !v.Resident() || v.Owned() {
		return ignoreGone(err)
	}
	_, err = c.consolidate(g, v, toLog && !c.options.InMemory)
	return err
}

func ignoreGone(err error) error {
	if err == ErrGone {
		return nil
	}
	return err
}

// shouldRewrite reports whether the page is to be written merged on account of its
// deltas in the log.
//
// How much of them the page may have follows from how much of the space they share. Let
// page i have a base of B bytes and gain deltas at a rate of r, and be written
// merged every t. That costs B/t and takes r t/2 of space, on the average. The sum of
// the former is least for a given sum of the latter where B/t^2 is the same multiple of r
// for all, that is, where the D = r t bytes of deltas that a page has when it is
// written come to
//
//	D/B x t = constant
//
// So a page that is updated a hundred times as often may have ten times the deltas. The
// constant is what the cleaner makes it for pages that are never in memory: those are
// written once per turn of the log, which is as long as the space goal, and have deltas
// for all the slack there is. Options.RewriteShare is a bound from below, for what is
// updated seldom.
func (c *Cache) shouldRewrite(v View) bool {
	b := v.bottom
	if b.positions == 0 || c.options.InMemory {
		return false
	}
	base, deltas := int(b.position(0).Size), 0
	for i := 1; i < int(b.positions); i++ {
		deltas += int(b.position(i).Size)
	}
	if d := v.top(); d != nil {
		deltas += int(d.bytes) + int(d.count)*updateOverhead
	}
	if int(b.positions)+v.Deltas() > rewritePositionsMax {
		return true
	}
	if deltas*100 < base*c.options.RewriteShare || deltas < rewriteBytesMin {
		return false
	}
	age := float64(c.log.Tail(log.Fresh)) - float64(b.position(0).LSN)
	return float64(deltas)*age >= float64(base)*float64(c.space.turn.Load())
}

const (
	updateOverhead  = 30  // bytes, about: the headers of a record with one small update
	rewriteBytesMin = 512 // deltas smaller than this do not cause a rewrite
	// rewritePositionsMax bounds the positions that a page holds, for pages whose
	// deltas are tiny beside their base.
	rewritePositionsMax = 160
)

// consolidate folds v, on a copy, and publishes the result below whatever was
// appended meanwhile. It reports whether it did.
func (c *Cache) consolidate(g epoch.Guard, v View, toLog bool) (bool, error) {
	return c.fold(g, v, toLog, log.Fresh, true)
}

// rewrite is consolidate to the log, into the given stream.
func (c *Cache) rewrite(g epoch.Guard, v View, s log.Stream) (bool, error) {
	return c.fold(g, v, true, s, true)
}

// fold leaves a page alone that would free others, unless free is set: freeing
// waits for their writer bits and writes to the log.
func (c *Cache) fold(g epoch.Guard, v View, toLog bool, stream log.Stream, free bool) (bool, error) {
	if v.Owned() {
		return false, nil // and its base may be a borrowed one
	}
	s := c.scratch.get()
	defer c.scratch.put(s)
	if !v.Merging(&s.merging) {
		return false, nil
	}
	data, err := c.merge(s.data[:0], &s.merging)
	if err != nil {
		return false, err
	}
	s.data = data
	if len(s.merging.freed) > 0 && !free {
		return false, nil
	}
	if len(s.merging.freed) > 0 {
		return c.consolidateFreeing(v, data, s.merging.freed)
	}
	f := c.foldedBase(v, data, toLog, &s.merging)
	f.stream = stream
	if toLog {
		if f.update, err = c.baseUpdate(log.KindConsolidate, v.pid, f.base.version, data); err != nil {
			c.dropNode(f.ref)
			return false, err
		}
		f.recovery = c.recoveryOf(v.pid, data)
	}
	done, err := c.publishFolded(g, v, f)
	c.codec.release(&f.update)
	if !done {
		c.dropNode(f.ref)
		return false, err
	}
	c.noteGrowth()
	if toLog {
		paths.Hit(paths.ConsolidateToLog)
		c.metrics.rewrites.Add(1)
	} else {
		paths.Hit(paths.ConsolidateInMemory)
		c.metrics.folds.Add(1)
	}
	return true, nil
}

// merge calls the materializer and turns a panic into an error.
func (c *Cache) merge(dst []byte, m *Merging) (data []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("pagecache: materializer panicked on page %d: %v", m.PID, r)
		}
	}()
	data, err = c.options.Materializer.Merge(dst, m)
	if err != nil {
		return nil, fmt.Errorf("pagecache: page %d: %w", m.PID, err)
	}
	if len(data) > maxPayload {
		return nil, fmt.Errorf("pagecache: page %d: %w", m.PID, ErrTooLarge)
	}
	return data, nil
}

// A folded is the base that a page folds to, not yet published.
type folded struct {
	ref    arena.Ref
	base   *bottomNode
	toLog  bool       // it is written to the log, which sets its one position
	stream log.Stream // where
	update log.Update // what is written

	recovery *Recovery // that it carries
}

func (c *Cache) foldedBase(v View, data []byte, toLog bool, m *Merging) folded {
	stamp := max(v.bottom.stamp, newestStamp(m.Fragments))
	n := 1
	switch {
	case toLog:
	case c.options.InMemory:
		n = 0 // nothing will be read back
	default:
		n = int(v.bottom.positions) + v.Deltas()
	}
	ref, base := c.newBottom(nodeBase, v.head.version, stamp, n, data)
	base.flags = v.bottom.flags & nodeKeep
	base.mark.take(&v.bottom.mark)
	if toLog || n == 0 {
		return folded{ref: ref, base: base, toLog: toLog}
	}
	base.flags |= v.bottom.flags & (nodePartUnstamped | nodeRead)
	copy(base.positionArea(), v.bottom.positionArea())
	i := n
	for d := v.top(); d != nil; d = c.olderDelta(d) {
		i--
		base.setPosition(i, d.position())
		base.flags |= d.flags & nodePartUnstamped
	}
	return folded{ref: ref, base: base}
}

func newestStamp(fragments []Fragment) uint64 {
	newest := uint64(0)
	for _, f := range fragments {
		newest = max(newest, f.Stamp)
	}
	return newest
}

func (c *Cache) olderDelta(d *deltaNode) *deltaNode {
	h := c.headerAt(d.older)
	if h.kind != nodeDelta {
		return nil
	}
	return (*deltaNode)(unsafe.Pointer(h))
}

// publishFolded puts base in the place of what v shows.
func (c *Cache) publishFolded(g epoch.Guard, v View, f folded) (bool, error) {
	slot := c.table.slot(v.pid)
	for try := 0; ; try++ {
		word := slot.Load()
		if word&slotWriter != 0 || !c.stillBelow(word, v) {
			return false, nil // somebody else changes the page: another time
		}
		if try >= consolidateTriesMax {
			paths.Hit(paths.WriterBitFallback)
			if !slot.CompareAndSwap(word, word|slotWriter) {
				continue
			}
			word |= slotWriter
		}
		done, err := c.tryPublishFolded(g, slot, v, word, f)
		if word&slotWriter != 0 && !done {
			slot.Store(word &^ slotWriter)
			return false, err
		}
		if done || err != nil {
			return done, err
		}
	}
}

// stillBelow reports whether the chain at word ends in what v shows.
func (c *Cache) stillBelow(word uint64, v View) bool {
	for w := word; w&slotRefMask != 0; {
		if w&slotRefMask == v.word&slotRefMask {
			return true
		}
		h := c.headerAt(w)
		if h.kind != nodeDelta {
			return false
		}
		w = (*deltaNode)(unsafe.Pointer(h)).older
	}
	return false
}

// tryPublishFolded is one try, on a chain at word that ends in what v shows.
func (c *Cache) tryPublishFolded(g epoch.Guard, slot *atomic.Uint64, v View, word uint64, f folded) (bool, error) {
	head, blocks, ok := c.copyAbove(word, v, uint64(f.ref))
	if !ok {
		return false, nil
	}
	var r log.Reservation
	var p log.Position
	if f.toLog {
		var err error
		r, err = c.log.Reserve(f.stream, log.UpdateSize(v.pid, f.base.version, len(f.update.Payload)))
		if err != nil {
			c.freeBlocks(blocks)
			return false, err
		}
		p = r.Append(f.update)
		f.base.setPosition(0, p)
	}
	yield(yieldConsolidatePublish)
	if !slot.CompareAndSwap(word, head) {
		if f.toLog {
			r.Abort()
		}
		c.freeBlocks(blocks)
		return false, nil
	}
	if f.toLog {
		c.noteLogged(v.pid, p)
		c.noteBase(p, true)
		if f.recovery != nil {
			c.recovery.note(*f.recovery)
		}
		r.Complete(f.base.stamp)
		c.disownView(v)
	}
	c.retireChain(g, word)
	return true, nil
}

// copyAbove copies the deltas that lie above v in the chain at word on top of
// base, and returns the head and the newest of the blocks that it opened. All
// copied deltas are stamped, so that a copy and its original cannot differ.
func (c *Cache) copyAbove(word uint64, v View, base uint64) (head, block uint64, ok bool) {
	s := c.scratch.get()
	defer c.scratch.put(s)
	above := s.nodes[:0]
	for w := word & slotRefMask; w != v.word&slotRefMask; {
		d := c.deltaAt(w)
		if _, visible := c.stampOf(d); !visible {
			return 0, 0, false
		}
		above = append(above, d)
		w = d.older
	}
	s.nodes = above
	head = base
	for i := len(above) - 1; i >= 0; i-- {
		d := above[i]
		k := c.carveDelta(head, d.payload(), d.hint)
		if k.fresh != 0 {
			block = uint64(k.fresh)
		}
		stamp, _ := c.stampOf(d)
		k.node.cell.Store(stamp)
		k.node.lsn, k.node.size = d.lsn, d.size
		k.node.flags = d.flags
		k.node.version = d.version
		head = k.ref
	}
	return head, block, true
}

// freeBlocks frees unpublished blocks, from the newest down.
func (c *Cache) freeBlocks(block uint64) {
	for block != 0 {
		b := (*blockHeader)(c.arena.Pointer(arena.Ref(block)))
		older := b.older
		c.arena.FreeAs(arena.Ref(block), memoryDeltas)
		block = older
	}
}

// retireChain retires the memory of the chain at word: its blocks and what it
// ends in. Only who replaced the chain calls it (P3).
func (c *Cache) retireChain(g epoch.Guard, word uint64) {
	h := c.headerAt(word)
	if h.kind != nodeDelta {
		c.retireNode(g, word)
		return
	}
	d := (*deltaNode)(unsafe.Pointer(h))
	c.retireNode(g, d.bottom)
	for block := blockOf(word, d); block != 0; {
		older := (*blockHeader)(c.arena.Pointer(arena.Ref(block))).older
		c.retire(g, block, memoryDeltas)
		block = older
	}
}

// disownView takes the fragments of v off the live bytes of their segments.
func (c *Cache) disownView(v View) {
	for d := v.top(); d != nil; d = c.olderDelta(d) {
		c.log.Account(d.position(), false)
	}
	for i := range int(v.bottom.positions) {
		p := v.bottom.position(i)
		c.log.Account(p, false)
		if i == 0 {
			c.noteBase(p, false)
		}
	}
}

// baseUpdate is the log's form of a base: compressed if that is asked for and
// pays.
func (c *Cache) baseUpdate(kind log.Kind, pid PID, version uint64, data []byte) (log.Update, error) {
	u := log.Update{PID: pid, Version: version, Kind: kind, Payload: data}
	if packed, ok := c.compress(data); ok {
		u.Payload, u.Compressed = packed, true
	}
	if log.UpdateSize(pid, version, len(u.Payload)) > c.log.MaxRecord() {
		return u, fmt.Errorf("pagecache: page %d of %d bytes: %w", pid, len(data), ErrTooLarge)
	}
	return u, nil
}

// consolidateFreeing folds a page and frees, in the same record, the pages that
// only what was dropped referred to. It acquires the page first and theirs after
// it, in order of PID; nobody who holds one of those waits for this one.
func (c *Cache) consolidateFreeing(v View, data []byte, freed []freedPage) (bool, error) {
	u := c.Begin()
	now, err := u.Acquire(v.pid)
	if err != nil || now.word&slotRefMask != v.word&slotRefMask {
		u.Discard()
		return false, ignoreGone(err)
	}
	slices.SortFunc(freed, func(a, b freedPage) int { return cmp.Compare(a.pid, b.pid) })
	u.consolidate(now, data)
	for _, f := range freed {
		page, err := u.Acquire(f.pid)
		if err == nil && page.Version() == f.version {
			u.Free(page)
		}
	}
	r, err := u.Commit()
	c.metrics.rewrites.Add(1)
	return r.Outcome == Done, err
}
