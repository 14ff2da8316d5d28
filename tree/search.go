package tree

import "bytes"

// search returns the index of the first entry whose key is at least key, and
// whether it is equal. With versions, that is the newest one.
func (n node) search(key []byte) (i int, equal bool) {
	p := n.prefixBytes()
	prefix := n[headerBytes : headerBytes+p]
	if len(key) < p || string(key[:p]) != string(prefix) {
		if bytes.Compare(key, prefix) < 0 {
			return 0, false
		}
		return n.count(), false
	}
	suffix := key[p:]
	x := headOf(suffix)
	at, count := headerBytes+pad8(p), n.count()
	heads := n[at : at+8*count]
	i = searchHeads(heads, x)
	if i == count || le.Uint64(heads[8*i:]) != x {
		return i, false
	}
	return n.searchTies(i, x, suffix)
}

// searchHeads returns how many heads are below x. No branch depends on the data.
// It halves while there are many; then it counts by the last head of each run of
// eight, and within the run found. The loads of a count do not wait for each
// other: in a leaf, of which few cache lines are near, halving to the end would
// meet the misses one by one.
func searchHeads(heads []byte, x uint64) int {
	lo, n := 0, len(heads)/8 // the result is in [lo, lo+n]
	for n > searchRunsMax*8 {
		half := n >> 1
		upper := lo + half
		if le.Uint64(heads[8*upper-8:]) >= x {
			upper = lo
		}
		lo = upper
		n -= half
	}
	lo += 8 * countBelow(heads[8*lo:8*(lo+n)], 56, 64, x)
	return lo + countBelow(heads[8*lo:min(len(heads), 8*lo+64)], 0, 8, x)
}

// searchRunsMax is how many runs of eight heads are looked at side by side.
const searchRunsMax = 12

// countBelow counts the heads below x at offsets from, from+step and so on.
func countBelow(heads []byte, from, step int, x uint64) int {
	n := 0
	for at := from; at+8 <= len(heads); at += step {
		if le.Uint64(heads[at:at+8]) < x {
			n++
		}
	}
	return n
}

// searchTies continues a search at the first entry whose head is x.
func (n node) searchTies(i int, x uint64, suffix []byte) (int, bool) {
	c := n.compareTie(i, suffix)
	if c >= 0 {
		return i, c == 0
	}
	end := n.count()
	if x != ^uint64(0) {
		at := n.headsAt()
		end = i + searchHeads(n[at+8*i:at+8*end], x+1)
	}
	lo, hi := i+1, end
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if n.compareTie(mid, suffix) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < end && n.compareTie(lo, suffix) == 0
}

// compareTie compares entry i with suffix. REQUIRES: their heads are equal.
func (n node) compareTie(i int, suffix []byte) int {
	b := n[n.offset(i):]
	size, at := uvarint(b[1:])
	if size <= 8 || len(suffix) <= 8 {
		// One is a prefix of the other but for zeros, so the shorter is less.
		return size - len(suffix)
	}
	at++
	if b[0]&entryStamp != 0 {
		at += 8
	}
	return bytes.Compare(b[at:at+size-8], suffix[8:])
}

// floor returns the last entry of an inner node whose key is at most key, or
// below it if strict. REQUIRES: there is one.
func (n node) floor(key []byte, strict bool) int {
	i, equal := n.search(key)
	if equal && !strict {
		return i
	}
	return max(i-1, 0)
}

// group returns the end of the versions that start at entry i.
func (n node) group(i int) int {
	count := n.count()
	for i++; i < count && n.entryFlags(i)&entryOlder != 0; i++ {
	}
	return i
}

// readBase returns the newest version of key in a leaf that a reader at the
// moment sees.
func readBase(n node, key []byte, moment uint64) (entry, bool) {
	i, equal := n.search(key)
	if !equal {
		return entry{}, false
	}
	e := n.entry(i)
	if e.stamp > moment {
		for end := n.group(i); e.stamp > moment; e = n.entry(i) {
			if i++; i == end {
				return entry{}, false
			}
		}
	}
	return e, e.flags&entryTombstone == 0
}
