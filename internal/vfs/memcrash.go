package vfs

import (
	"math/rand"
	"path/filepath"
	"slices"
)

// CrashClone returns the file system as it may be found after a power loss now:
// all that was synced, and a random choice, fixed by seed, of what was not. With
// seed 0 nothing unsynced survives. Locks are gone; m itself is unchanged.
//
// Of unsynced changes of names any subset survives, in their order; what stands
// in a directory that does not survive is gone with it. Of an unsynced file any
// subset of its sectors survives, each in any version that was written since the
// last sync, and any size that it had since: where the size survives and a
// sector does not, that sector has its synced contents, or zeros. Names, sizes
// and sectors, and one file and another, survive with odds of their own, so that
// a name comes without its data as often as the other way round.
func (m *Mem) CrashClone(seed int64) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	luck := newLuck(seed)
	names := map[string]*memNode{}
	for name, node := range m.durable {
		names[name] = node
	}
	survives := luck.odds()
	for _, op := range m.pending {
		if survives() {
			op.applyTo(names)
		}
	}
	clone := NewMem()
	clone.rnd = rand.New(rand.NewSource(seed ^ 0x5eed))
	copies := map[*memNode]*memNode{}
	for _, name := range sortedNames(names) {
		if !rooted(names, name) {
			continue
		}
		node := names[name]
		if copies[node] == nil {
			copies[node] = newMemNode(node.afterCrash(luck))
			copies[node].dir = node.dir
		}
		clone.names[name], clone.durable[name] = copies[node], copies[node]
	}
	return clone
}

// rooted reports whether all directories above name are there.
func rooted(names map[string]*memNode, name string) bool {
	for dir := filepath.Dir(name); ; dir = filepath.Dir(dir) {
		if names[dir] == nil || !names[dir].dir {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// luck decides what survives. A nil rnd: nothing does. Generous luck lets nearly
// everything survive, so that single losses stand out.
type luck struct {
	rnd      *rand.Rand
	generous bool
}

func newLuck(seed int64) luck {
	if seed == 0 {
		return luck{}
	}
	rnd := rand.New(rand.NewSource(seed))
	return luck{rnd, rnd.Intn(4) == 0}
}

// odds draws the odds of one kind of change, and returns the coin.
func (l luck) odds() func() bool {
	if l.rnd == nil {
		return func() bool { return false }
	}
	odds := [...]float64{0, 0.1, 0.5, 0.9, 1, 1}[l.rnd.Intn(6)]
	if l.generous {
		odds = [...]float64{0.9, 1}[l.rnd.Intn(2)]
	}
	return func() bool { return l.rnd.Float64() < odds }
}

// afterCrash returns what is found of a file.
func (n *memNode) afterCrash(l luck) []byte {
	data := slices.Clone(n.disk)
	if sizes := l.odds(); len(n.sizes) > 0 && sizes() {
		size := n.sizes[len(n.sizes)-1]
		if l.rnd.Intn(4) == 0 {
			size = n.sizes[l.rnd.Intn(len(n.sizes))]
		}
		data = resized(data, size)
	}
	survives, former := l.odds(), l.rnd != nil && l.rnd.Intn(2) == 0
	for _, s := range n.dirtySectors() {
		if !survives() {
			continue
		}
		version := n.sector(s)
		if older := n.dirty[s]; former && len(older) > 0 && l.rnd.Intn(2) == 0 {
			version = older[l.rnd.Intn(len(older))]
		}
		// A sector behind the size is lost with it: the file ends before it.
		if lo := s * sectorBytes; lo < int64(len(data)) {
			copy(data[lo:], version)
		}
	}
	return data
}
