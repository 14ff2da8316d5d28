package crashtest

import (
	"fmt"
	"testing"
)

// A Damage counts the damaged stores that were tried, and what became of them.
type Damage struct {
	Flipped, Cut, Files int    // what was done: to a byte, to a length, to whole files
	Answers             [3]int // refused; answered in part, the rest with errors; in full
}

// Plus returns the sums.
func (d Damage) Plus(e Damage) Damage {
	d.Flipped, d.Cut, d.Files = d.Flipped+e.Flipped, d.Cut+e.Cut, d.Files+e.Files
	for i := range d.Answers {
		d.Answers[i] += e.Answers[i]
	}
	return d
}

func (d Damage) String() string {
	return fmt.Sprintf("%d bytes flipped, %d lengths cut, %d files missing, swapped, foreign or older: %d refused, %d answered in part, %d in full",
		d.Flipped, d.Cut, d.Files, d.Answers[0], d.Answers[1], d.Answers[2])
}

// ReportDamage tells the test's log what was damaged, and adds a line to
// PULK_SUMMARY as Report does: the word damage, six numbers and a name. Whoever
// calls it has found nothing wrong.
func ReportDamage(t testing.TB, layer string, d Damage) {
	t.Helper()
	t.Logf("%s: %v, 0 wrong", layer, d)
	summarize(t, fmt.Sprintf("damage %d %d %d %d %d %d %s\n", d.Flipped, d.Cut, d.Files, d.Answers[0], d.Answers[1], d.Answers[2], layer))
}
