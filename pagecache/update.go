package pagecache

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulkdb/db/internal/arena"
	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/log"
)

// An Update changes several pages in one atomic record: after a crash all of it
// is there or none, and in memory its deltas appear at one moment.
//
// The pages in it are of three kinds. Fresh ones (Allocate) nobody else can
// reach. Acquired ones are changed under their writer bit, which only the Update
// that holds it can clear; other writers of the page wait, readers do not. At
// most one page is neither: its compare-and-swap decides whether the Update
// happens. So an Update without such a page cannot fail but for the log's sake.
//
// Commit goes through these states:
//
//	prepared    all nodes are made, in memory that nobody sees
//	reserved    the record's space is reserved, its bytes but the stamp written
//	installing  pages are published one by one; their deltas refer to one commit
//	            cell that says cellInstalling, and readers skip them
//	ready       the cell says so: the linearization point. Without a shared cell
//	            (at most one delta) it is the deciding page's publication
//	stamped     by the Update or by a reader that meets it
//	complete    the record is in the log's buffer; bits are cleared
//
// A record that exceeds the log's largest is a group of parts. All but the last
// are complete before the first page is published, and replay drops a group that
// lacks its last part.
//
// An Update is used by one goroutine. It holds a guard from Begin to Commit or
// Discard, one of which must be called, soon; between them nothing waits but
// Acquire, for another Update.
type Update struct {
	c       *Cache
	guard   epoch.Guard
	targets []target
	index   map[PID]int // of the first indexed targets; see find
	indexed int
	ops     []op
	lists   *updateLists // where targets and ops come from
	appends int
	cell    arena.Ref // shared commit cell, or 0
	err     error     // of a method without an error result; Commit returns it
}

// A target is a page of an Update.
type target struct {
	pid      PID
	slot     *atomic.Uint64
	view     View   // as acquired, or as given; zero for a fresh page
	acquired bool   // its writer bit is ours
	fresh    bool   // allocated by this Update
	before   uint64 // the slot's word without writer bit, when first touched
	head     uint64 // the newest node prepared, or 0
	replaced bool   // the old chain goes
	ops      int
}

// An op is one page update of the record.
type op struct {
	target int
	kind   log.Kind
	update log.Update
	data   []byte // uncompressed
	hint   uint16
	node   uint64 // prepared node
	size   int    // bytes in the record

	recovery *Recovery // that a base carries
}

// updateLists are lists of an Update, kept for the next: those of a large one are
// half a megabyte.
type updateLists struct {
	targets []target
	ops     []op
}

var updateListsPool = sync.Pool{New: func() any { return new(updateLists) }}

// updateListsMax bounds the ops and targets of lists that are kept.
const updateListsMax = 16 << 10

// Begin starts an Update.
func (c *Cache) Begin() *Update {
	l := updateListsPool.Get().(*updateLists)
	return &Update{c: c, guard: c.Pin(), targets: l.targets, ops: l.ops, lists: l}
}

// Acquire takes the page's writer bit and returns the page as it then is; until
// Commit, Release or Discard only this Update changes it. It waits while another
// Update holds the bit, so pages are acquired in one order everywhere (a tree's:
// ascending by level and key). The page is evicted by nobody meanwhile; if it is
// not resident now, Release it and Load it. Errors: ErrGone, ErrClosed.
func (u *Update) Acquire(pid PID) (View, error) {
	for try := 0; ; try++ {
		v, err := u.c.View(u.guard, pid)
		if err != nil {
			return View{}, err
		}
		if v.Owned() && try == 0 {
			if i, ok := u.find(pid); ok && u.targets[i].acquired {
				return u.targets[i].view, nil
			}
		}
		slot := u.c.table.slot(pid)
		if v.Owned() || !slot.CompareAndSwap(v.word, v.word|slotWriter) {
			pause(try)
			continue
		}
		v.word |= slotWriter
		u.add(target{pid: pid, slot: slot, view: v, acquired: true, before: v.word &^ slotWriter})
		return v, nil
	}
}

// pause lets others run: a bit is held for microseconds, but by an Update of very
// many pages for longer, and who waits for that one must not take its processor.
func pause(try int) {
	if try < acquireSpins {
		spin()
		return
	}
	time.Sleep(min(time.Duration(try)*time.Microsecond, acquireSleepMax))
}

const (
	acquireSpins    = 64
	acquireSleepMax = time.Millisecond
)

// Owns reports whether the Update holds the page's writer bit by Acquire.
func (u *Update) Owns(pid PID) bool {
	if len(u.targets) == 0 {
		return false // and the table may be gone: nothing under this guard has seen the cache open
	}
	if slot := u.c.table.slot(pid); slot == nil || slot.Load()&slotWriter == 0 {
		return false
	}
	i, ok := u.find(pid)
	return ok && u.targets[i].acquired
}

// Release gives an acquired page back unchanged.
//
// REQUIRES: the Update does nothing to the page.
func (u *Update) Release(pid PID) {
	i, ok := u.find(pid)
	if !ok || !u.targets[i].acquired || u.targets[i].ops > 0 {
		return
	}
	u.targets[i].slot.Store(u.targets[i].before)
	u.targets[i] = target{} // of no page
}

// indexTargets is from how many targets on they are looked up in a map.
const indexTargets = 8

func (u *Update) add(t target) int {
	u.targets = append(u.targets, t)
	return len(u.targets) - 1
}

// find returns which target the page is. Most of the time it is the last; the map
// is made, and brought up to date, when that is not so.
func (u *Update) find(pid PID) (int, bool) {
	last := len(u.targets) - 1
	if last >= 0 && u.targets[last].pid == pid {
		return last, true
	}
	if last < indexTargets {
		for i := range u.targets {
			if u.targets[i].pid == pid {
				return i, true
			}
		}
		return 0, false
	}
	if u.index == nil {
		u.index = make(map[PID]int, len(u.targets))
	}
	for ; u.indexed <= last; u.indexed++ {
		u.index[u.targets[u.indexed].pid] = u.indexed
	}
	i, ok := u.index[pid]
	return i, ok && u.targets[i].pid == pid
}

// Allocate adds a fresh page with the given base. Nobody else sees it before
// Commit has succeeded; if it does not, the PID is free again.
func (u *Update) Allocate(base []byte) (PID, error) {
	if u.c.closed.Load() {
		return 0, ErrClosed
	}
	if u.c.options.ReadOnly {
		return 0, ErrReadOnly
	}
	pid, err := u.c.pids.take(u.c)
	if err != nil {
		return 0, err
	}
	slot, before := u.c.table.own(pid)
	i := u.add(target{pid: pid, slot: slot, fresh: true, before: before})
	u.push(i, log.KindAllocate, base, 0)
	return pid, nil
}

// FreshVersion is the page version that the fresh page pid will have.
func (u *Update) FreshVersion(pid PID) uint64 {
	i, ok := u.find(pid)
	if !ok || !u.targets[i].fresh {
		return 0
	}
	return u.c.versionAt(u.targets[i].before) + 1
}

// Replace gives the page a new base in the place of all that v shows.
func (u *Update) Replace(v View, base []byte) { u.push(u.target(v), log.KindReplace, base, 0) }

// Append puts a delta on the page. Several for one page keep their order.
func (u *Update) Append(v View, delta []byte, hint uint16) {
	u.push(u.target(v), log.KindAppend, delta, hint)
	u.appends++
}

// Free frees the page. Its PID is reused once no guard that may have seen it
// remains and the record is durable.
func (u *Update) Free(v View) { u.push(u.target(v), log.KindFree, nil, 0) }

// consolidate writes the base that v folds to.
func (u *Update) consolidate(v View, base []byte) {
	u.push(u.target(v), log.KindConsolidate, base, 0)
}

func (u *Update) target(v View) int {
	if i, ok := u.find(v.pid); ok {
		return i
	}
	return u.add(target{pid: v.pid, slot: u.c.table.slot(v.pid), view: v, before: v.word})
}

func (u *Update) push(i int, kind log.Kind, data []byte, hint uint16) {
	t := &u.targets[i]
	if t.ops > 0 && kind != log.KindAppend && u.err == nil {
		u.err = fmt.Errorf("pagecache: page %d: only appends may follow another change in one update", t.pid)
	}
	t.ops++
	u.ops = append(u.ops, op{target: i, kind: kind, data: data, hint: hint})
}

// Discard gives everything back.
func (u *Update) Discard() {
	u.rollback()
	u.finish()
}

// Commit makes the changes. The slices given must not change before it returns.
// Outcome is Done, or Changed or Gone if the page that was not acquired no
// longer is as its View shows; then, and with an error, nothing has happened.
// Errors: ErrTooLarge (one page exceeds the log's largest record), ErrReadOnly,
// ErrClosed, and the log's failure.
func (u *Update) Commit() (Result, error) {
	defer u.finish()
	decider, err := u.check()
	if err == nil && decider >= 0 && u.lost(decider) {
		u.rollback()
		return u.c.changed(u.targets[decider].view), nil
	}
	if err == nil {
		err = u.prepare()
	}
	if err != nil {
		u.rollback()
		return Result{}, err
	}
	u.deciderLast(decider)
	r, group, err := u.reserve()
	if err != nil {
		u.rollback()
		return Result{}, err
	}
	if !u.publish(decider) {
		r.Abort()
		if group != nil {
			group.Abandon()
		}
		u.c.metrics.conflicts.Add(1)
		changed := u.c.changed(u.targets[decider].view)
		u.rollback()
		return changed, nil
	}
	stamp := u.ready()
	u.account()
	end := r.Complete(stamp)
	u.complete(stamp)
	return Result{Outcome: Done, LSN: end}, nil
}

// check finds the page whose compare-and-swap decides: -1 if there is none.
func (u *Update) check() (decider int, err error) {
	decider = -1
	switch {
	case u.err != nil:
		return 0, u.err
	case u.c.closed.Load():
		return 0, ErrClosed
	case u.c.options.ReadOnly:
		return 0, ErrReadOnly
	}
	for i := range u.targets {
		t := &u.targets[i]
		if t.acquired || t.fresh || t.ops == 0 {
			continue
		}
		if decider >= 0 {
			return 0, fmt.Errorf("pagecache: pages %d and %d of one update are both unacquired", u.targets[decider].pid, t.pid)
		}
		decider = i
	}
	return decider, nil
}

// lost reports whether the deciding page is owned or changed already. Who tries
// again until an owner is done would else fill the log with aborted records.
func (u *Update) lost(decider int) bool {
	t := &u.targets[decider]
	if t.before&slotWriter != 0 {
		spin()
		return true
	}
	return t.slot.Load() != t.before
}

// prepare makes the nodes of all ops.
func (u *Update) prepare() error {
	c := u.c
	if u.appends > 1 && !testhooks.PublishLeafByLeaf.On() {
		u.cell = c.arena.AllocAs(batchCellBytes, memoryCells)
		c.arena.Word(u.cell, 0).Store(cellInstalling)
	}
	clock := c.clock.Load()
	for i := range u.ops {
		o := &u.ops[i]
		t := &u.targets[o.target]
		top := t.head
		if top == 0 {
			top = t.before
		}
		version := c.versionAt(top) + 1
		switch o.kind {
		case log.KindAppend:
			u.prepareAppend(o, t, top)
		case log.KindFree:
			o.node = uint64(c.newFree(version, log.Position{}))
			t.replaced = true
		default:
			stamp := clock
			if o.kind == log.KindConsolidate {
				version--
				stamp = t.view.newestStamp()
			}
			ref, b := c.newBottom(nodeBase, version, stamp, 1, o.data)
			if c.keep(o.data) {
				b.flags |= nodeKeep
			}
			o.node = uint64(ref)
			o.recovery = c.recoveryOf(t.pid, o.data)
			t.replaced = true
		}
		t.head = o.node
		if err := u.describe(o, t.pid, c.headerAt(o.node).version); err != nil {
			return err
		}
	}
	return nil
}

func (u *Update) prepareAppend(o *op, t *target, top uint64) {
	k := u.c.carveDelta(top, o.data, o.hint)
	k.node.cell.Store(0)
	if u.cell != 0 {
		k.node.cell.Store(cellShared | uint64(u.cell))
	}
	o.node = k.ref
	if t.view.c != nil && t.head == 0 {
		if d := t.view.top(); d != nil {
			u.c.stampOf(d) // stamps grow along a chain
		}
	}
}

// describe makes the log's form of the op.
func (u *Update) describe(o *op, pid PID, version uint64) error {
	switch o.kind {
	case log.KindAppend, log.KindFree:
		o.update = log.Update{PID: pid, Version: version, Kind: o.kind, Payload: o.data}
	default:
		var err error
		if o.update, err = u.c.baseUpdate(o.kind, pid, version, o.data); err != nil {
			return err
		}
	}
	o.size = log.UpdateSize(pid, version, len(o.update.Payload))
	if o.size > u.c.log.MaxRecord() {
		return fmt.Errorf("pagecache: page %d: %w", pid, ErrTooLarge)
	}
	return nil
}

// deciderLast moves the deciding page's ops to the end, so that they stand in
// the record that its compare-and-swap commits or aborts.
func (u *Update) deciderLast(decider int) {
	if decider < 0 {
		return
	}
	slices.SortStableFunc(u.ops, func(a, b op) int {
		switch ad, bd := a.target == decider, b.target == decider; {
		case ad == bd:
			return 0
		case ad:
			return 1
		default:
			return -1
		}
	})
}

// reserve writes all parts but the last and reserves and fills that one.
func (u *Update) reserve() (log.Reservation, *log.Group, error) {
	total := 0
	for i := range u.ops {
		total += u.ops[i].size
	}
	if total <= u.c.log.MaxRecord() {
		r, err := u.c.log.Reserve(log.Fresh, total)
		if err == nil {
			u.fill(&r, u.ops)
		}
		return r, nil, err
	}
	paths.Hit(paths.GroupRecord)
	group := u.c.log.NewGroup(log.Fresh)
	rest, first := u.ops, LSN(0)
	for {
		n, size := u.part(rest)
		last := n == len(rest)
		r, err := group.Reserve(size, last)
		if err != nil {
			group.Abandon()
			return r, nil, err
		}
		u.fill(&r, rest[:n])
		if first == 0 {
			first = r.LSN()
		}
		if last {
			u.c.groups.note(first, u.c.log.Tail(log.Fresh), u.c.log.Durable(log.Fresh))
			return r, group, nil
		}
		for _, o := range rest[:n] {
			if o.kind == log.KindAppend {
				u.c.headerAt(o.node).flags |= nodePartUnstamped
			}
		}
		r.Complete(0)
		yield(yieldUpdatePart)
		rest = rest[n:]
	}
}

// part says how many of ops fit one record, and their size.
func (u *Update) part(ops []op) (n, size int) {
	for n < len(ops) && size+ops[n].size <= u.c.log.MaxRecord() {
		size += ops[n].size
		n++
	}
	return n, size
}

func (u *Update) fill(r *log.Reservation, ops []op) {
	for i := range ops {
		o := &ops[i]
		p := r.Append(o.update)
		switch h := u.c.headerAt(o.node); h.kind {
		case nodeDelta:
			d := u.c.deltaAt(o.node)
			d.lsn, d.size = uint64(p.LSN), p.Size
		case nodeBase:
			u.c.bottomAt(o.node).setPosition(0, p)
		case nodeFree:
			f := u.c.freeAt(o.node)
			f.lsn, f.size = uint64(p.LSN), p.Size
		}
	}
}

// publish installs the pages. It reports false if the deciding page had changed:
// then only fresh pages are installed, which nobody can reach.
func (u *Update) publish(decider int) bool {
	for i := range u.targets {
		if t := &u.targets[i]; t.fresh {
			// Under the writer bit nobody takes it for part of the store yet.
			t.slot.Store(t.head | slotWriter)
		}
	}
	yield(yieldUpdateFresh)
	if decider >= 0 {
		t := &u.targets[decider]
		head := t.head
		if u.cell != 0 {
			// Until its deltas are ready nobody builds on them (P8).
			head |= slotWriter
		}
		if !t.slot.CompareAndSwap(t.before, head) {
			return false
		}
		t.acquired = u.cell != 0
	}
	for i := range u.targets {
		if t := &u.targets[i]; t.acquired && t.ops > 0 {
			yield(yieldUpdatePublish)
			t.slot.Store(t.head | slotWriter)
		}
	}
	return true
}

// ready makes the deltas visible and returns their stamp.
func (u *Update) ready() uint64 {
	c := u.c
	yield(yieldUpdateReady)
	if u.cell != 0 {
		word := c.arena.Word(u.cell, 0)
		word.Store(cellReady)
		word.CompareAndSwap(cellReady, c.clock.Load())
		return word.Load()
	}
	for i := range u.ops {
		if o := &u.ops[i]; o.kind == log.KindAppend {
			stamp, _ := c.stampOf(c.deltaAt(o.node))
			return stamp
		}
	}
	return c.clock.Load()
}

// account books the fragments written and those replaced, and notes recovery
// state, all before the record is complete: a page-table snapshot whose replay
// starts behind the record relies on it.
func (u *Update) account() {
	c := u.c
	for i := range u.ops {
		o := &u.ops[i]
		pid := u.targets[o.target].pid
		switch h := c.headerAt(o.node); h.kind {
		case nodeDelta:
			c.noteLogged(pid, c.deltaAt(o.node).position())
		case nodeBase:
			p := c.bottomAt(o.node).position(0)
			c.noteLogged(pid, p)
			c.noteBase(p, true)
			if o.recovery != nil {
				c.recovery.note(*o.recovery)
			}
		case nodeFree:
			c.noteLogged(pid, c.freeAt(o.node).position())
		}
	}
	for i := range u.targets {
		t := &u.targets[i]
		switch {
		case t.fresh && t.before != 0:
			if p := c.freeAt(t.before).position(); !p.IsZero() {
				c.log.Account(p, false)
			}
		case t.replaced && !t.fresh:
			c.disownView(t.view)
		}
	}
}

// complete ends a successful Commit: it settles the stamps, gives the bits back
// and retires what was replaced.
func (u *Update) complete(stamp uint64) {
	c := u.c
	if u.cell != 0 {
		for i := range u.ops {
			if o := &u.ops[i]; o.kind == log.KindAppend {
				c.deltaAt(o.node).cell.Store(stamp)
			}
		}
		c.retire(u.guard, uint64(u.cell), memoryCells)
	}
	for i := range u.targets {
		t := &u.targets[i]
		if t.fresh || t.acquired {
			word := t.before
			if t.ops > 0 {
				word = t.head
			}
			invariant.CheckDebug(t.slot.Load()&slotWriter != 0, "pagecache: writer bit lost")
			t.slot.Store(word)
		}
		u.retire(t)
	}
	c.noteGrowth()
}

func (u *Update) retire(t *target) {
	c := u.c
	switch {
	case t.fresh:
		if t.before != 0 {
			c.retireNode(u.guard, t.before)
		}
	case t.replaced:
		c.retireChain(u.guard, t.before)
		if c.headerAt(t.head).kind == nodeFree {
			paths.Hit(paths.FreePID)
			c.retirePID(u.guard, t.pid)
		}
	}
}

// rollback undoes an Update that did not happen.
func (u *Update) rollback() {
	c := u.c
	for i := range u.targets {
		t := &u.targets[i]
		if t.head != 0 {
			u.dropNodes(i, t)
		}
		switch {
		case t.fresh:
			// No View of the fresh page can exist but of the passers-by that
			// look at every slot, so the PID waits for them.
			t.slot.Store(t.before)
			c.retirePID(u.guard, t.pid)
		case t.acquired:
			t.slot.Store(t.before)
		}
	}
	if u.cell != 0 {
		c.retire(u.guard, uint64(u.cell), memoryCells)
	}
}

// dropNodes retires what was prepared for a target. It may have been seen: a
// fresh page's slot is published before the Update is decided.
func (u *Update) dropNodes(i int, t *target) {
	c := u.c
	stop := uint64(0) // the page's own newest block
	if t.before != 0 {
		if h := c.headerAt(t.before); h.kind == nodeDelta {
			stop = blockOf(t.before&slotRefMask, c.deltaAt(t.before))
		}
	}
	newest := uint64(0)
	for j := range u.ops {
		o := &u.ops[j]
		if o.target != i || o.node == 0 {
			continue
		}
		if c.headerAt(o.node).kind != nodeDelta {
			c.retireNode(u.guard, o.node)
			continue
		}
		newest = blockOf(o.node, c.deltaAt(o.node))
	}
	for block := newest; block != 0 && block != stop; {
		older := (*blockHeader)(c.arena.Pointer(arena.Ref(block))).older
		c.retire(u.guard, block, memoryDeltas)
		block = older
	}
}

// finish ends the Update's life.
func (u *Update) finish() {
	u.guard.Unpin()
	for i := range u.ops {
		u.c.codec.release(&u.ops[i].update)
	}
	if u.lists != nil && cap(u.targets) <= updateListsMax && cap(u.ops) <= updateListsMax {
		clear(u.targets)
		clear(u.ops)
		u.lists.targets, u.lists.ops = u.targets[:0], u.ops[:0]
		updateListsPool.Put(u.lists)
	}
	u.targets, u.ops, u.index, u.lists = nil, nil, nil, nil
}
