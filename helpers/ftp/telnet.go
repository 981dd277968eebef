package ftp

import "bytes"

// Telnet commands (RFC 854; RFC 959, section 4.1.3 and RFC 1123, section 4.1.2.10 let them occur in both directions).
const (
	iac  = 255
	will = 251
	dont = 254
	sb   = 250
	se   = 240
)

// maxStripped bounds what is kept of a line with telnet commands: more than an announcement or a note needs.
const maxStripped = 2 * maxAnnouncement

// strip takes telnet commands and the line end out of a line, and if there are any, all behind its first maxStripped
// bytes. index, if not nil, gives for each byte and for the end its place in the line. Both are valid until the next
// call.
func (s *session) strip(line []byte) (plain []byte, index []uint16) {
	if n := len(line); n > 0 && line[n-1] == '\n' {
		line = line[:n-1]
	}
	for len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	}
	if bytes.IndexByte(line, iac) < 0 {
		return line, nil
	}
	line = line[:min(len(line), maxStripped)]
	scratch := s.work()
	plain, index = scratch.plain[:0], scratch.index[:0]
	for i := 0; i < len(line); {
		if line[i] != iac {
			plain, index = append(plain, line[i]), append(index, uint16(i))
			i++
			continue
		}
		if i+1 == len(line) {
			break
		}
		switch c := line[i+1]; {
		case c == iac:
			plain, index = append(plain, iac), append(index, uint16(i))
			i += 2
		case c >= will && c <= dont:
			i += 3
		case c == sb:
			end := bytes.Index(line[i:], []byte{iac, se})
			if end < 0 {
				end = len(line) - i
			}
			i += end + 2
		default: // IP, DM, NOP …
			i += 2
		}
	}
	index = append(index, uint16(len(line)))
	scratch.plain, scratch.index = plain, index
	return plain, index
}

// place is where byte i of a stripped line stands in the line.
func place(index []uint16, i int) int {
	if index == nil {
		return i
	}
	return int(index[i])
}
