package tree

import (
	"bytes"
	"fmt"
	"slices"
	"sync"

	"github.com/pulkdb/db/pagecache"
)

// A merger folds deltas into a node. It is scratch memory: reused, and used by
// one goroutine at a time.
type merger struct {
	rule    rule
	base    node
	changes []change  // of all deltas, oldest first
	order   []ordered // the changes, sorted by key, then newest first
	plan    []step
	group   []version // versions of one key, newest first
	key     version   // one of them that was not made
	kept    []version // of a group with operands
	made    []madeVersion
	prefix  int // bytes of the merged node's prefix
	count   int // of the merged node
	bytes   int // of its entries
	newest  uint64
	marked  bool // some planned entry has a flag other than entryIndirect

	erasures []erasure // of all deltas; then newest first
	erased   []span    // of the base, by any of them; disjoint, in order

	nextErased int // of those the first that may lie above what is planned

	in      pagecache.Merging  // of mergeView
	freeing *pagecache.Merging // see freeInto
	free    func(list []byte)

	rebased   []byte // base with another prefix
	keyBuffer []byte

	// after and before count the changed keys above and below all of the base's.
	after, before, changedKeys int
}

// An ordered is the place of a change in the order.
type ordered struct {
	head  uint64
	index int32
}

// A step of the plan puts entries into the merged node.
type step struct {
	kind  stepKind
	flags byte // of the entry put
	from  int  // index into base, changes or made
	to    int  // copyRun: end of the run
}

type stepKind uint8

const (
	copyRun   stepKind = iota + 1 // base entries [from, to) as they are
	copyEntry                     // base entry from, with other flags
	putChange                     // change from
	putMade                       // made version from
)

var mergers = sync.Pool{New: func() any { return new(merger) }}

func newMerger() *merger { return mergers.Get().(*merger) }

// mergerBytesMax bounds what a merger in the pool keeps.
const mergerBytesMax = 1 << 20

// release gives the merger back. It drops what refers to borrowed memory.
func (m *merger) release() {
	clear(m.changes)
	clear(m.made)
	clear(m.erasures)
	m.rule, m.base, m.freeing = rule{}, nil, nil
	if cap(m.changes) > mergerBytesMax/64 || cap(m.made) > mergerBytesMax/64 || cap(m.group) > mergerBytesMax/32 || cap(m.rebased) > mergerBytesMax || cap(m.plan) > mergerBytesMax/32 {
		return
	}
	mergers.Put(m)
}

// merge appends to dst the node that base and the deltas, oldest first, amount
// to. Stamps of deltas grow; of equal ones the later fragment wins.
func (m *merger) merge(dst []byte, base node, deltas []pagecache.Fragment, r rule) ([]byte, error) {
	m.begin(base, r)
	for i, f := range deltas {
		if err := m.add(f.Data, f.Stamp, uint32(i)); err != nil {
			return nil, err
		}
	}
	return m.finish(dst)
}

func (m *merger) begin(base node, r rule) {
	m.base, m.rule = base, r
	m.changes, m.plan, m.made, m.erasures = m.changes[:0], m.plan[:0], m.made[:0], m.erasures[:0]
	m.count, m.bytes, m.marked = 0, 0, false
	m.after, m.before, m.changedKeys = 0, 0, 0
	m.newest = base.newest()
	m.prefix = base.prefixBytes()
	if base.count() == 0 {
		m.prefix = -1 // as long as the keys allow
	}
	if !base.isLeaf() {
		m.rule.moments, m.rule.keepAll = nil, false
	}
}

// add takes in one delta; seq orders it among the others, the newest highest.
func (m *merger) add(data []byte, stamp uint64, seq uint32) error {
	d, err := asDelta(data)
	if err != nil {
		return err
	}
	if d.isInner() == m.base.isLeaf() {
		return fmt.Errorf("%w: delta of kind %d on a node of kind %d", ErrCorrupt, d[0], m.base.kind())
	}
	m.newest = max(m.newest, stamp)
	if d.isErase() {
		e, err := decodeErase(d)
		e.stamp, e.seq = stamp, seq
		m.erasures = append(m.erasures, e)
		return err
	}
	for i := range d.count() {
		c, ok := d.at(i)
		if !ok || c.flags&^changeFlags != 0 {
			return fmt.Errorf("%w: change %d of a delta", ErrCorrupt, i)
		}
		c.stamp, c.seq = stamp, seq
		m.shorten(c.key)
		m.changes = append(m.changes, c)
	}
	return nil
}

// shorten makes the prefix one that key has as well.
func (m *merger) shorten(key []byte) {
	switch {
	case m.prefix < 0:
		m.prefix = len(key)
	case m.base.count() > 0:
		m.prefix = commonPrefix(key, m.base.prefix()[:m.prefix])
	default:
		m.prefix = commonPrefix(key, m.changes[0].key[:m.prefix])
	}
}

func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// finish plans the merged node and writes it.
func (m *merger) finish(dst []byte) ([]byte, error) {
	m.prefix = max(m.prefix, 0)
	if m.base.count() > 0 && m.prefix < m.base.prefixBytes() {
		m.rebased = appendRange(m.rebased[:0], m.base, 0, m.base.count(), m.base.meta(), m.prefix)
		m.base = node(m.rebased)
	}
	m.sortChanges()
	m.sortErasures()
	m.makePlan()
	if m.count == 0 {
		m.prefix = 0 // of no keys
	}
	return m.write(dst), nil
}

func (m *merger) sortChanges() {
	m.order = m.order[:0]
	for i := range m.changes {
		c := &m.changes[i]
		c.head = headOf(c.key[m.prefix:])
		m.order = append(m.order, ordered{c.head, int32(i)})
	}
	if !slices.IsSortedFunc(m.order, m.compare) {
		slices.SortFunc(m.order, m.compare)
	}
}

// compare orders by key, then newest first.
func (m *merger) compare(a, b ordered) int {
	if a.head != b.head {
		if a.head < b.head {
			return -1
		}
		return 1
	}
	x, y := &m.changes[a.index], &m.changes[b.index]
	if c := bytes.Compare(x.key, y.key); c != 0 {
		return c
	}
	return int(y.seq) - int(x.seq)
}

// makePlan walks base and changes in key order.
func (m *merger) makePlan() {
	b, count := 0, m.base.count()
	plain := len(m.rule.moments) == 0 && !m.rule.keepAll && !m.rule.visible && len(m.erasures) == 0
	for c := 0; c < len(m.order); {
		first := int(m.order[c].index)
		at, equal := m.base.search(m.changes[first].key)
		m.planBase(b, at)
		b = at
		m.countKey(at, count, equal)
		end, flags := m.sameKey(c)
		baseEnd := at
		if equal {
			baseEnd = m.base.group(at)
		}
		switch {
		case plain && flags&(entryIndirect|entryOperand) == 0 && (!equal || baseEnd == at+1 && m.base.entryFlags(at)&entryIndirect == 0):
			if m.changes[first].flags&entryTombstone == 0 {
				m.planVersion(version{from: inChanges, index: first}, m.changes[first].flags)
			}
		default:
			m.group = m.group[:0]
			for _, o := range m.order[c:end] {
				x := &m.changes[o.index]
				m.group = append(m.group, version{stamp: x.stamp, flags: x.flags, from: inChanges, index: int(o.index)})
			}
			m.addBaseVersions(at, baseEnd)
			m.planGroup()
		}
		b, c = baseEnd, end
	}
	m.planBase(b, count)
}

// sameKey returns the end of the changes of the key at place c of the order, and
// the flags that any of them has.
func (m *merger) sameKey(c int) (end int, flags byte) {
	first := &m.changes[m.order[c].index]
	flags = first.flags
	for end = c + 1; end < len(m.order) && m.order[end].head == first.head; end++ {
		x := &m.changes[m.order[end].index]
		if string(x.key) != string(first.key) {
			break
		}
		flags |= x.flags
	}
	return end, flags
}

func (m *merger) countKey(at, count int, equal bool) {
	m.changedKeys++
	switch {
	case at == count:
		m.after++
	case at == 0 && !equal:
		m.before++
	}
}

// addBaseVersions adds base entries [i, end), the versions of a key.
func (m *merger) addBaseVersions(i, end int) {
	for ; i < end; i++ {
		e := m.base.entry(i)
		m.group = append(m.group, version{stamp: e.stamp, flags: e.flags &^ (entryStamp | entryOlder), from: inBase, index: i})
	}
}

// planBase plans base entries that no change touches.
func (m *merger) planBase(from, to int) {
	for m.nextErased < len(m.erased) && from < to {
		s := m.erased[m.nextErased]
		if s.to <= from {
			m.nextErased++
			continue
		}
		if s.from >= to {
			break
		}
		m.planAlive(from, max(from, s.from))
		from = max(from, s.from)
		m.planErased(from, min(s.to, to))
		from = min(s.to, to)
	}
	m.planAlive(from, to)
}

// planAlive plans base entries that no delta touches. In a node without versions
// they are one run; else the keys that have some are looked at one by one.
func (m *merger) planAlive(from, to int) {
	if !m.base.versioned() {
		m.planRun(from, to)
		return
	}
	run := from
	for i := from; i < to; {
		end := m.base.group(i)
		if end == i+1 && m.base.entryFlags(i)&^entryIndirect == 0 {
			i = end
			continue
		}
		m.planRun(run, i)
		m.group = m.group[:0]
		m.addBaseVersions(i, end)
		m.planGroup()
		i, run = end, end
	}
	m.planRun(run, to)
}

func (m *merger) planRun(from, to int) {
	if from >= to {
		return
	}
	m.count += to - from
	m.bytes += m.base.offset(to) - m.base.offset(from)
	m.plan = append(m.plan, step{kind: copyRun, from: from, to: to})
}

// planGroup plans the versions of one key that the rule keeps.
func (m *merger) planGroup() {
	m.key = m.group[0]
	if len(m.erasures) > 0 {
		m.addErasures()
	}
	kept := m.keep(m.group)
	for i, v := range kept {
		flags := v.flags
		if !m.rule.visible && m.needsStamp(v.stamp) {
			flags |= entryStamp
		}
		if i > 0 {
			flags |= entryOlder
		}
		m.planVersion(v, flags)
	}
}

func (m *merger) planVersion(v version, flags byte) {
	s := step{flags: flags, from: v.index}
	switch v.from {
	case inBase:
		s.kind = copyEntry
		e := m.base.entry(v.index)
		m.bytes += entryBytes(flags, e.suffixBytes, len(e.value))
	case inChanges:
		s.kind = putChange
		c := &m.changes[v.index]
		m.bytes += entryBytes(flags, len(c.key)-m.prefix, len(c.value))
	case inMade:
		s.kind = putMade
		m.bytes += entryBytes(flags, m.suffixBytes(), len(m.made[v.index].value))
	}
	m.count++
	m.marked = m.marked || flags&^entryIndirect != 0
	m.plan = append(m.plan, s)
}

// entryBytes is the size of an entry.
func entryBytes(flags byte, suffix, value int) int {
	n := 1 + uvarintBytes(suffix) + max(suffix-8, 0) + value
	if flags&entryStamp != 0 {
		n += 8
	}
	return n
}

// write appends the planned node.
func (m *merger) write(dst []byte) []byte {
	meta := m.base.meta()
	meta.stamp = m.newest
	meta.versioned = m.marked
	var prefix []byte
	if m.prefix > 0 {
		if m.base.count() > 0 {
			prefix = m.base.prefix()[:m.prefix]
		} else {
			prefix = m.changes[0].key[:m.prefix]
		}
	}
	dst, w := newWriter(dst, meta, prefix, m.count, m.bytes)
	for _, s := range m.plan {
		switch s.kind {
		case copyRun:
			w.putRun(m.base, s.from, s.to)
		case copyEntry:
			e := m.base.entry(s.from)
			w.put(m.base.head(s.from), s.flags, e.suffixBytes, e.stamp, e.tail, e.value)
		case putChange:
			c := &m.changes[s.from]
			suffix := c.key[m.prefix:]
			w.put(c.head, s.flags, len(suffix), c.stamp, suffix[min(8, len(suffix)):], c.value)
		case putMade:
			x := &m.made[s.from]
			if k := x.key.index; x.key.from == inBase {
				e := m.base.entry(k)
				w.put(m.base.head(k), s.flags, e.suffixBytes, x.stamp, e.tail, x.value)
			} else {
				suffix := m.changes[k].key[m.prefix:]
				w.put(m.changes[k].head, s.flags, len(suffix), x.stamp, suffix[min(8, len(suffix)):], x.value)
			}
		}
	}
	w.done()
	return dst
}
