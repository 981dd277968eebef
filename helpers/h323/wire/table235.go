package wire

// h235 is what H.225.0 takes from module H235-SECURITY-MESSAGES of H.235.0 (09/2005): tokens, which stand in the way.
var h235 = []definition{
	{"H.235 NonStandardParameter", Sequence, []row{
		{"nonStandardIdentifier", "OBJECT IDENTIFIER", 0},
		{"data", "OCTET STRING", 0},
	}},
	{"DHset", Sequence, []row{
		{"halfkey", "BIT STRING (SIZE (0..2048))", 0},
		{"modSize", "BIT STRING (SIZE (0..2048))", 0},
		{"generator", "BIT STRING (SIZE (0..2048))", 0},
		{"...", "", 0},
	}},
	{"TypedCertificate", Sequence, []row{
		{"type", "OBJECT IDENTIFIER", 0},
		{"certificate", "OCTET STRING", 0},
		{"...", "", 0},
	}},
	{"ClearToken", Sequence, []row{
		{"tokenOID", "OBJECT IDENTIFIER", 0},
		{"timeStamp", "INTEGER (1..4294967295) OPTIONAL", 0},
		{"password", "BMPString (SIZE (1..128)) OPTIONAL", 0},
		{"dhkey", "DHset OPTIONAL", 0},
		{"challenge", "OCTET STRING (SIZE (8..128)) OPTIONAL", 0},
		{"random", "INTEGER OPTIONAL", 0},
		{"certificate", "TypedCertificate OPTIONAL", 0},
		{"generalID", "BMPString (SIZE (1..128)) OPTIONAL", 0},
		{"nonStandard", "H.235 NonStandardParameter OPTIONAL", 0},
		{"...", "", 0},
	}},
	{"SIGNED", Sequence, []row{
		{"toBeSigned", "OPEN", 0},
		{"algorithmOID", "OBJECT IDENTIFIER", 0},
		{"paramS", "H.235 Params", 0},
		{"signature", "BIT STRING", 0},
	}},
	{"ENCRYPTED", Sequence, []row{
		{"algorithmOID", "OBJECT IDENTIFIER", 0},
		{"paramS", "H.235 Params", 0},
		{"encryptedData", "OCTET STRING", 0},
	}},
	{"HASHED", Sequence, []row{
		{"algorithmOID", "OBJECT IDENTIFIER", 0},
		{"paramS", "H.235 Params", 0},
		{"hash", "BIT STRING", 0},
	}},
	{"H.235 Params", Sequence, []row{
		{"ranInt", "INTEGER OPTIONAL", 0},
		{"iv8", "OCTET STRING (SIZE (8)) OPTIONAL", 0},
		{"...", "", 0},
	}},
	{"CryptoToken", Choice, []row{
		{"cryptoEncryptedToken", "CryptoToken.cryptoEncryptedToken", 0},
		{"cryptoSignedToken", "CryptoToken.cryptoSignedToken", 0},
		{"cryptoHashedToken", "CryptoToken.cryptoHashedToken", 0},
		{"cryptoPwdEncr", "ENCRYPTED", 0},
		{"...", "", 0},
	}},
	{"CryptoToken.cryptoEncryptedToken", Sequence, []row{
		{"tokenOID", "OBJECT IDENTIFIER", 0},
		{"token", "ENCRYPTED", 0},
	}},
	{"CryptoToken.cryptoSignedToken", Sequence, []row{
		{"tokenOID", "OBJECT IDENTIFIER", 0},
		{"token", "SIGNED", 0},
	}},
	{"CryptoToken.cryptoHashedToken", Sequence, []row{
		{"tokenOID", "OBJECT IDENTIFIER", 0},
		{"hashedVals", "ClearToken", 0},
		{"token", "HASHED", 0},
	}},
}
