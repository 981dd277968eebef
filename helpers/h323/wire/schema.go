package wire

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// Form is how PER writes a type.
type Form uint8

const (
	Sequence Form = iota + 1 // or SET
	Choice
	List    // SEQUENCE OF, SET OF
	Number  // INTEGER (Lo..Hi)
	Integer // INTEGER (Lo..MAX), INTEGER: a length and bytes
	Boolean
	Null
	Enumerated // 0 to Hi
	Nulls      // a CHOICE of NULL only: 0 to Hi, and extensions
	String     // OCTET STRING, BIT STRING, OBJECT IDENTIFIER, character strings: Lo to Hi units
	Open       // a length in bytes and what they count
)

// definition is a type of the tables: its name in the ASN.1, what it is, its components.
type definition struct {
	name string
	form Form
	rows []row
}

// row is a component or an alternative. typ is the ASN.1 type, with OPTIONAL; NULLS (n, ...) stands for a CHOICE of n
// NULLs, OPEN for an open type. The row "..." is the extension marker; those behind it are additions. An addition without
// a type is skipped by its length, as are those that follow the last row.
type row struct {
	name, typ string
	as        Field
}

// Type is a type of the tables as the reader, and the writer in the tests, use it.
type Type struct {
	Name       string
	Form       Form
	Extensible bool
	Lo, Hi     int64 // of a number, an index, a length or a count; Hi < 0: no upper bound
	Unit       int   // bits of a unit of a String
	Of         *Type // element of a List; contents of an OCTET STRING
	Rows       []Row // of a Sequence or Choice: first those of the root
	Root       int   // how many rows are the root's

	optional int // OPTIONAL rows in the root
}

// Row is a component or an alternative of a Type.
type Row struct {
	Name     string
	Type     *Type // nil: an addition that is skipped
	Optional bool

	as Field
}

// Lookup is the type of that name, as the ASN.1 calls it; nil: there is none.
func Lookup(name string) *Type { return schema().byName[name] }

// schema is all types by their names.
var schema = sync.OnceValue(func() *types { return compile(h2250, h245, h235, h460) })

// types are the types of the tables; those at which a reader begins have a name here too.
type types struct {
	byName                                 map[string]*Type
	ras, information, control, openChannel *Type
	incomingCall, traversal                *Type
}

// compile makes types of tables. It panics if a row cannot be read: TestTables would have said so.
func compile(tables ...[]definition) *types {
	s := &types{byName: map[string]*Type{}}
	for _, table := range tables {
		for _, d := range table {
			if s.byName[d.name] != nil {
				panic("defined twice: " + d.name)
			}
			s.byName[d.name] = &Type{Name: d.name, Form: d.form}
		}
	}
	for _, table := range tables {
		for _, d := range table {
			s.define(s.byName[d.name], d)
		}
	}
	s.ras = s.byName["RasMessage"]
	s.information = s.byName["H323-UserInformation"]
	s.control = s.byName["MultimediaSystemControlMessage"]
	s.openChannel = s.byName["OpenLogicalChannel"]
	s.incomingCall = s.byName["IncomingCallIndication"]
	s.traversal = s.byName["TraversalParameters"]
	return s
}

// define fills in t.
func (s *types) define(t *Type, d definition) {
	t.Root = -1
	for _, r := range d.rows {
		if r.name == "..." {
			t.Root, t.Extensible = len(t.Rows), true
			continue
		}
		typ, optional := strings.CutSuffix(r.typ, " OPTIONAL")
		out := Row{Name: r.name, Optional: optional, as: r.as}
		if typ != "" {
			out.Type = s.find(typ)
		}
		if optional && !t.Extensible {
			t.optional++
		}
		t.Rows = append(t.Rows, out)
	}
	if t.Root < 0 {
		t.Root = len(t.Rows)
	}
	t.Hi = int64(t.Root - 1) // of the index, in a CHOICE
}

// find is the type that a row names or describes.
func (s *types) find(text string) *Type {
	if t := s.byName[text]; t != nil {
		return t
	}
	t := &Type{Name: text}
	s.byName[text] = t
	if list, of, ok := strings.Cut(text, " OF "); ok {
		t.Form = List
		t.bounds(list)
		t.Of = s.find(of)
		return t
	}
	plain, contents, _ := strings.Cut(text, " (CONTAINING ")
	if contents != "" {
		t.Of = s.find(strings.TrimSuffix(contents, ")"))
	}
	kind, _, _ := strings.Cut(plain, " (")
	t.bounds(plain)
	switch kind {
	case "BOOLEAN":
		t.Form = Boolean
	case "NULL":
		t.Form = Null
	case "INTEGER":
		t.Form = Number
		if t.Hi < 0 {
			t.Form = Integer
		}
	case "ENUMERATED":
		t.Form = Enumerated
		t.Hi--
	case "NULLS":
		t.Form = Nulls
		t.Hi--
	case "OPEN":
		t.Form = Open
	case "OBJECT IDENTIFIER", "OCTET STRING", "GeneralString":
		t.Form, t.Unit = String, 8
	case "BIT STRING":
		t.Form, t.Unit = String, 1
	case "BMPString":
		t.Form, t.Unit = String, 16
	case "IA5String", "PrintableString", "NumericString":
		t.Form, t.Unit = String, characterBits(kind, plain)
	default:
		panic("not a type: " + text)
	}
	return t
}

// bounds reads "(Lo..Hi)", "(SIZE (Lo..Hi))", "(n)" and "(n, ...)".
func (t *Type) bounds(text string) {
	t.Hi = -1
	text, _, _ = strings.Cut(text, " (FROM")
	_, text, ok := strings.Cut(text, "(")
	if !ok {
		return
	}
	text = strings.TrimPrefix(text, "SIZE (")
	text, t.Extensible = strings.CutSuffix(strings.TrimRight(text, ")"), ", ...")
	lo, hi, ok := strings.Cut(text, "..")
	if !ok {
		hi = lo
		if strings.HasPrefix(t.Name, "NULLS") || strings.HasPrefix(t.Name, "ENUMERATED") {
			lo = "0"
		}
	}
	t.Lo = must(strconv.ParseInt(lo, 10, 64))
	if hi != "MAX" {
		t.Hi = must(strconv.ParseInt(hi, 10, 64))
	}
}

// characterBits is how many bits a character takes in the aligned variant: a power of two (X.691, 30.5.2).
func characterBits(kind, text string) int {
	n := 128
	if kind == "NumericString" {
		n = 11
	}
	if _, from, ok := strings.Cut(text, "(FROM ("); ok {
		n = len(strings.Trim(from, "')"))
	}
	bits := 1
	for 1<<bits < n {
		bits *= 2
	}
	return bits
}

func must(n int64, err error) int64 {
	if err != nil {
		panic(fmt.Sprint("not a bound: ", err))
	}
	return n
}
