package workload

import "math"

// A Zipf draws ranks from 0 to n-1, of which rank k has a probability
// proportional to 1/(k+1)^s, for s below 1, which math/rand does not have. The
// method is that of Gray et al., "Quickly Generating Billion-Record Synthetic
// Databases", SIGMOD 1994, as YCSB uses it.
type Zipf struct {
	n                   int
	s, alpha, zeta, eta float64
}

// NewZipf returns one for ranks below n and the exponent s.
func NewZipf(n int, s float64) *Zipf {
	zeta := func(n int) (sum float64) {
		for i := n; i > 0; i-- {
			sum += math.Pow(float64(i), -s)
		}
		return sum
	}
	z := &Zipf{n: n, s: s, alpha: 1 / (1 - s), zeta: zeta(n)}
	z.eta = (1 - math.Pow(2/float64(n), 1-s)) / (1 - zeta(2)/z.zeta)
	return z
}

// Rank returns the rank that belongs to x, which is to be uniform.
func (z *Zipf) Rank(x uint64) int {
	u := float64(x>>11) / (1 << 53)
	switch uz := u * z.zeta; {
	case uz < 1:
		return 0
	case uz < 1+math.Pow(0.5, z.s):
		return min(1, z.n-1)
	}
	return min(int(float64(z.n)*math.Pow(z.eta*u-z.eta+1, z.alpha)), z.n-1)
}
