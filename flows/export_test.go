package flows

// SetFew says how many entries DeleteAll deletes one by one.
func (t *Table) SetFew(n int) { t.few = n }
