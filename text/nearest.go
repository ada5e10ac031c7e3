package text

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxGuessed is how long a word is at most for which another one is guessed, in bytes.
const maxGuessed = 32

// Nearest returns the one of a few names that somebody may have meant who wrote a word: the
// one that at most two slips of the fingers turn into it, and no more than a third of its letters. Nothing
// means that there is none.
func Nearest(word string, names []string) string {
	if len(word) > maxGuessed {
		return ""
	}
	nearest, fewest := "", 3
	for _, name := range names {
		if n := slips(strings.ToLower(word), name); n < fewest && n <= max(1, len(name)/3) {
			nearest, fewest = name, n
		}
	}
	return nearest
}

// slips returns how many letters are missing, too many, wrong, or in the wrong order (optimal string alignment).
func slips(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1) // rows
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// typographic are the quotation marks of word processors and messengers, which no program takes for its own.
const typographic = "“”„‟‘’‚‛«»‹›"

// Typographic returns the first typographic quotation mark at the beginning or the end of a
// text, or nothing: there it is meant for a plain one.
func Typographic(s string) string {
	first, _ := utf8.DecodeRuneInString(s)
	last, _ := utf8.DecodeLastRuneInString(s)
	for _, r := range []rune{first, last} {
		if strings.ContainsRune(typographic, r) && r != utf8.RuneError {
			return string(r)
		}
	}
	return ""
}

// TypographicJSON returns the first typographic quotation mark that stands where JSON
// wants a plain one: after a bracket, a colon or a comma. Nothing means that there is none.
func TypographicJSON(s string) string {
	inside := false // a string
	previous := '{'
	for i, r := range s {
		switch {
		case r == '"' && (i == 0 || s[i-1] != '\\'):
			inside = !inside
		case inside || unicode.IsSpace(r):
			continue
		case strings.ContainsRune(typographic, r) && strings.ContainsRune("{[:,", previous):
			return string(r)
		}
		previous = r
	}
	return ""
}
