#!/usr/bin/env python3
"""A seeded grammar of short English stories: the only source of text of the demo model.

    python stories.py --seed 7 --count 3        # prints three stories, a blank line between them

Standard library only. The same seed always gives the same stories; no story is printed twice.

How it works: a story has a world (setting, weather, tense, characters, things) that is fixed first; a plot then
adds sentences that talk about this world, so that a name, a pronoun, a thing or a place that returns is the right one.
Template marks:  <a|b|c> one of these (may nest);  {h.he} a form of a slot of the world;
[go] the verb in the tense of the story, third person singular;  [go+] the same, plural.
"""
import argparse
import random
import re

# ------------------------------------------------------------------------------------------------ verbs
PAST = dict(x.split(":") for x in """go:went come:came see:saw find:found lose:lost run:ran sit:sat stand:stood take:took
give:gave make:made say:said tell:told know:knew think:thought feel:felt hear:heard hold:held keep:kept leave:left
get:got fall:fell fly:flew swim:swam sing:sang eat:ate drink:drank sleep:slept wake:woke begin:began bring:brought
buy:bought build:built catch:caught dig:dug hide:hid ride:rode rise:rose shake:shook shine:shone throw:threw win:won
write:wrote read:read put:put cut:cut let:let set:set creep:crept grow:grew blow:blew draw:drew wear:wore break:broke
speak:spoke swing:swung stick:stuck sweep:swept meet:met lie:lay spend:spent can:could will:would understand:understood
forget:forgot beat:beat sew:sewed show:showed hurt:hurt lend:lent teach:taught fill:filled bite:bit hang:hung
feed:fed pay:paid cost:cost flee:fled sell:sold spin:spun light:lit steal:stole shut:shut lead:led send:sent freeze:froze""".split())
DOUBLE = set("stop hug grab clap nod hop plan beg drop slip step spot wrap tug tap grin rub pat trip dip hum skip rip swap stir".split())


def conjugate(verb, tense, plural):
    """`verb` (base form, may be followed by more words) in the third person."""
    verb, _, rest = verb.partition(" ")
    rest = " " + rest if rest else ""
    if verb == "be":
        return (("were" if plural else "was") if tense == "past" else ("are" if plural else "is")) + rest
    if verb == "have":
        return ("had" if tense == "past" else "have" if plural else "has") + rest
    if verb == "do":
        return ("did" if tense == "past" else "do" if plural else "does") + rest
    if tense == "past":
        if verb in PAST:
            out = PAST[verb]
        elif verb in DOUBLE:
            out = verb + verb[-1] + "ed"
        elif verb.endswith("e"):
            out = verb + "d"
        elif verb.endswith("y") and verb[-2] not in "aeiou":
            out = verb[:-1] + "ied"
        else:
            out = verb + "ed"
    elif plural or verb in ("can", "will"):
        out = verb
    elif re.search("(s|sh|ch|x|o)$", verb):
        out = verb + "es"
    elif verb.endswith("y") and verb[-2] not in "aeiou":
        out = verb[:-1] + "ies"
    else:
        out = verb + "s"
    return out + rest


# ------------------------------------------------------------------------------------------------ the words
BOYS = "Tom Ben Leo Sam Max Finn Oscar Jack Noah Hugo Theo Omar".split()
GIRLS = "Mia Lily Anna Zoe Ella Rosa Nina Ruby Clara Ivy Lucy Maya".split()
HE_ANIMALS = "Pip Moss Rusty Tuck Biscuit Bramble Barley Otis Bruno Felix".split()
SHE_ANIMALS = "Dot Hazel Fern Pepper Clover Olive Poppy Willow Nutmeg Daisy".split()
TRAITS = "brave shy clever kind curious quiet cheerful lazy careful proud gentle busy stubborn patient".split()
SIZES = "little small young tiny".split()

# setting: kinds of animal, (preposition phrase, place) of spots, elders, open place, way home
SETTINGS = {
    "forest": dict(
        where="<in the forest|at the edge of the forest|in the middle of a green forest|deep in the woods>",
        kinds="fox rabbit mouse hedgehog squirrel badger mole bear".split(), open="the clearing", here="in the forest",
        home="<a house under an oak tree|a warm den|a cottage between the trees>",
        spots=[("inside the hollow tree", "the hollow tree"), ("under the old oak", "the old oak"),
               ("beside the stream", "the stream"), ("in a pile of leaves", "the leaves"),
               ("behind the mossy stone", "the mossy stone"), ("near the blackberry bush", "the blackberry bush")],
        elders=[("old owl", "she"), ("old tortoise", "he"), ("woodcutter", "he"), ("wise raven", "she")]),
    "village": dict(
        where="<in a small village|in a quiet village|in a village by the river>",
        kinds="boy girl boy girl boy girl cat dog".split(), open="the market square", here="in the village",
        home="<a house with a green door|a narrow house near the bakery|a cottage with a round window>",
        spots=[("under the wooden bench", "the bench"), ("behind the well", "the well"),
               ("on the steps of the bakery", "the bakery"), ("by the fountain", "the fountain"),
               ("at the foot of the clock tower", "the clock tower"), ("in front of the school", "the school")],
        elders=[("baker", "he"), ("old woman", "she"), ("teacher", "she"), ("clockmaker", "he")]),
    "farm": dict(
        where="<on a farm|on a farm at the end of a long road|on a sunny farm>",
        kinds="boy girl goat duck dog cat pony lamb".split(), open="the meadow", here="on the farm",
        home="<a red barn|a farmhouse with a tall chimney|a white farmhouse>",
        spots=[("in the dusty barn", "the barn"), ("behind the haystack", "the haystack"),
               ("under the broken cart", "the cart"), ("next to the pond", "the pond"),
               ("in the hen house", "the hen house"), ("below the apple tree", "the apple tree")],
        elders=[("farmer", "he"), ("grandmother", "she"), ("shepherd", "he"), ("grey horse", "she")]),
    "coast": dict(
        where="<by the sea|on a small island|in a town beside the sea>",
        kinds="boy girl boy girl crab seal gull otter".split(), open="the beach", here="by the sea",
        home="<a blue house near the harbour|a hut on the sand|a house above the cliff>",
        spots=[("behind a wet rock", "the rocks"), ("in a rock pool", "the rock pool"),
               ("under the old boat", "the old boat"), ("inside the dark cave", "the cave"),
               ("on the pier", "the pier"), ("beside the lighthouse", "the lighthouse")],
        elders=[("fisherman", "he"), ("sailor", "he"), ("lighthouse keeper", "she"), ("old turtle", "she")]),
    "mountain": dict(
        where="<high in the mountains|in a valley between two mountains|on the side of a mountain>",
        kinds="boy girl goat hare wolf bear girl boy".split(), open="the high meadow", here="in the valley",
        home="<a cabin made of logs|a stone hut|a cabin with a warm stove>",
        spots=[("in the deep snow", "the snowy hill"), ("behind a tall pine", "the tall pine"),
               ("under the stone bridge", "the bridge"), ("near the waterfall", "the waterfall"),
               ("inside a small cave", "the cave"), ("beside the blue lake", "the blue lake")],
        elders=[("grandfather", "he"), ("hunter", "he"), ("old eagle", "she"), ("healer", "she")]),
}
# weather: opening, what it does later, how it ends
WEATHER = {
    "sunny": ("the sun [shine] and the sky [be] blue", "the sun [be] hot", "the sun [go] down behind the hills"),
    "windy": ("a strong wind [blow] from the north", "the wind [pull] at the trees", "the wind [become] quiet"),
    "rainy": ("rain [fall] from a grey sky", "the rain [make] everything wet", "the rain [stop] and a rainbow [appear]"),
    "snowy": ("soft snow [cover] the ground", "snow [fall] without a sound", "the stars [shine+] over the white snow"),
    "foggy": ("a thick fog [hang] over the land", "the fog [hide] the path", "the fog [lift] and the air [be] clear"),
    "cloudy": ("dark clouds [cross] the sky", "the clouds [grow+] darker", "the clouds [move+] away and the moon [appear]"),
}
PAST["become"] = "became"
TIMES = ["morning", "afternoon", "evening"]
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
SEASONS = {"sunny": "summer", "windy": "autumn", "rainy": "spring", "snowy": "winter", "foggy": "autumn", "cloudy": "spring"}
COLOURS = "red blue green yellow purple orange white".split()

# thing: adjectives, what one does with it (takes "the thing"), how it breaks, what mends it
THINGS = {
    "kite": (COLOURS, "fly", "tear", "paper and string"), "drum": (["wooden", "round", "loud"], "beat", "crack", "a piece of leather"),
    "ball": (COLOURS, "kick", "burst", "a patch"), "book": (["thick", "old", "heavy"], "read", "tear", "glue"),
    "whistle": (["tin", "silver", "shiny"], "blow", "bend", "a hammer"), "flute": (["wooden", "silver", "long"], "play", "crack", "wax"),
    "lantern": (["brass", "bright", "old"], "light", "break", "new glass"), "scarf": (COLOURS + ["striped", "woollen"], "wear", "rip", "needle and thread"),
    "hat": (COLOURS + ["straw", "tall"], "wear", "rip", "needle and thread"), "blanket": (["soft", "warm", "striped"], "share", "rip", "needle and thread"),
    "cup": (["white", "painted", "china"], "wash", "break", "glue"), "doll": (["rag", "wooden", "pretty"], "hug", "rip", "needle and thread"),
    "bell": (["brass", "golden", "silver"], "ring", "crack", "a hammer"), "umbrella": (COLOURS + ["striped"], "open", "bend", "wire"),
    "sledge": (["wooden", "fast", "old"], "pull", "crack", "nails"), "toy boat": (COLOURS + ["wooden"], "sail", "crack", "wax"),
    "basket": (["round", "straw", "big"], "carry", "break", "dry grass"), "puppet": (["funny", "painted", "wooden"], "move", "break", "string"),
}
PARTICIPLE = dict(tear="torn", crack="cracked", burst="burst", bend="bent", rip="ripped", **{"break": "broken"})
PAST.update(tear="tore", burst="burst", bend="bent", ring="rang")
FOODS = ["honey cake", "apple pie", "loaf of bread", "bowl of soup", "piece of cheese", "basket of cherries", "jar of jam",
         "bag of nuts", "plate of pancakes", "ripe melon", "pot of porridge", "bunch of grapes"]
# a treasure, its place, the problem, the tool, how the tool is used
QUESTS = [
    ("the sweetest <pears|plums> in the land", "grow+", "on top of a high wall", "the wall [be] far too high", "a ladder",
     "[lean] the ladder against the wall and [climb] up", "taste+"),
    ("a rare blue flower", "grow", "on the other side of a deep river", "the river [be] too deep to cross", "a small boat",
     "[row] the small boat across the river", "smell"),
    ("an old treasure chest", "stand", "behind a locked gate", "the gate [be] locked", "a rusty key",
     "[turn] the rusty key and the gate [open]", "shine"),
    ("a shining crystal", "lie", "at the end of a dark tunnel", "the tunnel [be] black as night", "a lamp",
     "[hold] up the lamp and [walk] into the tunnel", "shine"),
    ("a spring of healing water", "flow", "at the bottom of a steep cliff", "the cliff [be] too steep", "a long rope",
     "[tie] the long rope to a tree and [climb] down", "taste"),
    ("a golden feather", "lie", "in the nest of a fierce goose", "the goose [hiss] at everyone", "a bag of corn",
     "[feed] the goose with the bag of corn, and the goose [forget] the nest", "shine"),
    ("a silver pearl", "lie", "on the floor of a cold pool", "the pool [be] too cold for swimming", "a fishing net",
     "[pull] the fishing net through the cold pool", "shine"),
    ("a tree with magic leaves", "stand", "beyond a field of thorns", "the thorns [be+] long and sharp", "a pair of thick boots",
     "[put] on the thick boots and [step] over the thorns", "smell"),
]
# a fear, the place where it is met, comfort, proof of courage
FEARS = [
    ("the dark", "the light [go] out", "the stars are lamps that never go out", "[walk] through the dark garden alone"),
    ("thunder", "thunder [roll] across the sky", "thunder is only clouds that bump into each other", "[count] the thunder claps and [laugh]"),
    ("deep water", "{h.his} ball [roll] into the lake", "the water holds you if you lie still", "[swim] all the way to the other side"),
    ("high places", "{h.he} [have] to climb a ladder", "you only have to look at the next step", "[climb] to the very top"),
    ("big dogs", "a big dog [bark] at the gate", "he barks because he wants to play", "[pat] the big dog on the head"),
    ("bees", "a bee [land] on {h.his} sleeve", "a bee is too busy to be angry", "[sit] still until the bee [fly] away"),
    ("strangers", "a stranger [knock] on the door", "a stranger is a friend you do not know yet", "[open] the door and [say] hello"),
    ("ghosts", "something white [move] behind the window", "most ghosts are only washing on a line", "[pull] at the ghost and [find] a wet shirt"),
]
# a skill: infinitive, why it fails, the advice, gerund
SKILLS = [
    ("swim", "[sink] like a stone", "kick with your legs and breathe slowly", "swimming"),
    ("ride a bicycle", "[fall] into a hedge", "look ahead and not at the wheel", "riding"),
    ("whistle", "only [blow] air", "make your mouth round and small", "whistling"),
    ("skate", "[slip] and [land] on {h.his} back", "bend your knees a little", "skating"),
    ("bake bread", "[burn] it black", "wait until the dough has grown twice as big", "baking"),
    ("paint", "[make] only brown spots", "use one colour at a time", "painting"),
    ("dance", "[step] on every foot", "listen to the drum before you move", "dancing"),
    ("fish", "[catch] only an old boot", "sit still and do not talk", "fishing"),
    ("juggle", "[drop] every apple", "start with two and not with three", "juggling"),
]
PAST.update(sink="sank")
# a noise or light in the night and its cause
NOISES = [("a soft tapping", "a branch that [tap] against the window", "closed the window", "[tie] the branch back"),
          ("a low moan", "a cow that [be] alone in the rain", "a cow", "[lead] the cow back to the barn"),
          ("a strange scratching", "a kitten that [want] to come in", "a kitten", "[give] the kitten some warm milk"),
          ("a loud bang", "an old door that [swing] in the wind", "a door", "[shut] the door"),
          ("a tiny ringing", "a mouse that [play] with a bell", "a mouse", "[give] the mouse a crumb of cheese"),
          ("a slow dripping", "a hole in the roof", "a hole", "[put] a bucket under the hole"),
          ("a sad song", "a bird that [have] lost its nest", "a bird", "[make] a new nest out of straw")]
SEEDS = [("pumpkin", "soup"), ("bean", "stew"), ("sunflower", "a crown of petals"), ("strawberry", "jam"),
         ("carrot", "a salad"), ("cabbage", "soup"), ("turnip", "a pie"), ("tomato", "a red sauce")]
FAVOURITES = ["fresh bread", "hot soup", "sweet berries", "plum cake", "baked apples", "roasted nuts", "fried fish", "cold melon", "white cheese", "honey"]
HOBBIES = ["sing by the fire", "look at the stars", "read an old map", "draw pictures", "listen to the wind", "count the birds", "write letters"]
HATED = ["wet feet", "loud noises", "cold wind", "early mornings", "long words", "onions", "Mondays"]
TRAPS = [("in a deep hole", "a rope", "[pull] {f.him} out"), ("in the mud", "a long branch", "[pull] {f.him} out"),
         ("in a net", "a sharp knife", "[cut] {f.him} free"), ("under a fallen tree", "a strong pole", "[lift] the trunk"),
         ("on a rock in the river", "a raft", "[bring] {f.him} to the bank"), ("on a high roof", "a ladder", "[carry] {f.him} down")]
RACES = [("a running race", "runner", "[run]", "run faster than the wind"), ("a swimming race", "swimmer", "[swim]", "swim faster than any fish"),
         ("a baking contest", "baker", "[bake]", "bake better than anyone"), ("a singing contest", "singer", "[sing]", "sing better than any bird"),
         ("a kite contest", "flyer", "[fly]", "fly a kite higher than the clouds"), ("a boat race", "rower", "[row]", "row faster than a storm")]
HAPPY = "happy glad pleased delighted".split()
SAD = "sad unhappy upset gloomy".split()


class Being:
    """A character: {x} name or noun, {x.he} {x.him} {x.his} {x.the} the fox, {x.a} a shy fox, {x.kind} fox."""

    def __init__(self, kind, she, name=None, trait=None):
        self.kind, self.name, self.trait = kind, name, trait
        self.he, self.him, self.his, self.self = (("she", "her", "her", "herself") if she else ("he", "him", "his", "himself"))
        self.the, self.a = "the " + kind, "a " + kind

    def __str__(self):
        return self.name or self.the


class Thing:
    """A thing: {t} or {t.the} the kite, {t.a} a red kite, {t.adj} red, {t.noun} kite."""

    def __init__(self, noun, adj=""):
        self.noun, self.adj = noun, adj
        self.the, self.a = "the " + noun, ("a %s %s" % (adj, noun)).replace("  ", " ")
        self.full = "the %s %s" % (adj, noun)

    def __str__(self):
        return self.the


class Story:
    def __init__(self, rng):
        self.rng, self.out = rng, []
        r = rng
        self.tense = "past" if r.random() < 0.65 else "present"
        self.setting = r.choice(list(SETTINGS))
        s = SETTINGS[self.setting]
        self.weather = r.choice([w for w in WEATHER if w != "snowy" or self.setting != "coast"])
        self.names, self.trait0 = set(), r.randrange(len(TRAITS))
        h, f, g = self.being(s), self.being(s), self.being(s)
        ek, eg = r.choice(s["elders"])
        e = Being(ek, eg == "she")
        noun = r.choice(list(THINGS))
        t = Thing(noun, r.choice(THINGS[noun][0]))
        self.spot = r.sample(s["spots"], 3)
        self.slots = dict(h=h, f=f, g=g, e=e, t=t, open=s["open"], home=s["home"], where=s["where"],
                          use=THINGS[noun][1], here=s["here"], w1=WEATHER[self.weather][0], w2=WEATHER[self.weather][1],
                          w3=WEATHER[self.weather][2], season=SEASONS[self.weather], day=r.choice(DAYS), time=r.choice(TIMES),
                          at=self.spot[0][0], place=self.spot[0][1], at2=self.spot[1][0], place2=self.spot[1][1],
                          place3=self.spot[2][1], happy=r.choice(HAPPY), sad=r.choice(SAD), size=r.choice(SIZES),
                          food="a " + r.choice(FOODS))
        for k in ("home", "where"):                                            # decided once a story
            v = self.render(self.slots[k])
            self.slots[k] = v[0].lower() + v[1:]
        self.fav = None
        self.slots["thefood"] = "the " + self.slots["food"][2:]
        self.slots["foodword"] = self.slots["food"].split()[-1]

    def being(self, setting):
        """A new named character of this setting."""
        while True:
            kind, she = self.rng.choice(setting["kinds"]), self.rng.random() < 0.5
            if kind in ("boy", "girl"):
                she = kind == "girl"
                name = self.rng.choice(GIRLS if she else BOYS)
            else:
                name = self.rng.choice(SHE_ANIMALS if she else HE_ANIMALS)
            if name not in self.names:
                self.names.add(name)
                return Being(kind, she, name, TRAITS[(self.trait0 + 5 * len(self.names)) % len(TRAITS)])

    # -------------------------------------------------------------------------------------------- rendering
    def render(self, text):
        while True:                                                           # slots, which may hold further marks
            new = re.sub(r"\{(\w+)(?:\.(\w+))?\}", self.slot, text)
            new = re.sub(r"<([^<>]*)>", lambda m: self.rng.choice(m[1].split("|")), new)
            if new == text:
                break
            text = new
        text = re.sub(r"\[([^\]+]+)(\+?)\]", lambda m: conjugate(m[1], self.tense, bool(m[2])), text)
        text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", re.sub(r" +", " ", text)).strip()
        text = text[0].upper() + text[1:] if text[0] != '"' else text
        text = re.sub(r'(?:(?<=[.!?] )|(?<=[.]" ))[a-z]', lambda m: m[0].upper(), text)
        text = text.replace("can not", "cannot")
        return re.sub(r'(^|[^,] )"([a-z])', lambda m: m[1] + '"' + m[2].upper(), text)

    def slot(self, m):
        v = self.slots[m[1]]
        if not m[2]:
            return str(v)
        if m[2] == "intro":                                                   # the first time in full, later the name
            if v.name in " ".join(self.out):
                return v.name
            return "<{n} the {k}|a {k} named {n}|a {t} {k} called {n}>".format(n=v.name, k=v.kind, t=v.trait) \
                if v.kind not in ("boy", "girl") else "a <{t} |>{k} <named|called> {n}".format(n=v.name, k=v.kind, t=v.trait)
        low = getattr(v, m[2].lower())
        return low.capitalize() if m[2][0].isupper() else low

    def add(self, *choices):
        self.out.append(self.render(self.rng.choice(choices)))

    def maybe(self, p, *choices):
        if self.rng.random() < p:
            self.add(*choices)

    # -------------------------------------------------------------------------------------------- shared parts
    def opening(self, friend=False):
        self.add("Once there [be] a {size} {h.kind} named {h}. {h.He} [be] {h.trait} and [live] in {home} {where}.",
                 "{where} [live] a {h.trait} {h.kind} whose name [be] {h}.",
                 "{h} [be] a {h.trait} {h.kind}. {h.He} [live] in {home}.",
                 "There [be] a {h.trait} {h.kind} {where}. Everyone [call] {h.him} {h}.",
                 "{h} the {h.kind} [live] {where}. {h.He} [be] {h.trait}, and {h.his} home [be] {home}.",
                 "On a <small|low|green> hill {where} [stand] {home}, and a {h.trait} {h.kind} named {h} [live] there.")
        if friend:
            self.add("{h.his} best friend [be] {f}, a {f.trait} {f.kind}.", "{h} [have] a friend, a {f.trait} {f.kind} called {f}.",
                     "{h} and {f} the {f.kind} [be+] friends, although {f} [be] very {f.trait}.")
        if self.rng.random() < 0.4:                                           # a habit that may come back at the end
            self.fav = self.slots["fav"] = self.rng.choice(FAVOURITES)
            self.slots["hobby"], self.slots["hated"] = self.rng.choice(HOBBIES), self.rng.choice(HATED)
            self.slots["who"] = "{h}" if friend else "{h.he}"
            self.add("{who} [like] {fav}, but {h.he} [do] not like {hated}.", "Every evening {who} [eat] {fav} and [{hobby}].",
                     "{who} [love] two things: {fav} and <long walks|good songs|a warm bed>.", "When {who} [have] time, {h.he} [{hobby}] and [eat] {fav}.")
        self.maybe(0.75, "One {time} in {season}, {w1}.", "It [be] {day}, and {w1}.", "That {day} {w1}.", "Early in {season}, when {w1}, something [happen].",
                   "It [be] a {time} in {season}.")

    def weather_note(self, p=0.35):
        self.maybe(p, "{w2}, but {h} [do] not care.", "Meanwhile {w2}.", "Outside, {w2}.", "All the time {w2}.")

    def ending(self, *morals):
        if self.fav:
            self.maybe(0.6, "For supper there [be] {fav}, of course.", "{h} [eat] a big plate of {fav}.", "Then {h.he} [go] home, and there [be] {fav} for {h.him}.")
        self.maybe(0.45, "In the end {w3}.", "Then {w3}.", "Soon {w3}, and {h} [go] home.", "That night {h} [sleep] well.",
                   "When {h} [lie] in bed, {h.he} [smile].", "{h} [tell] the story to everyone {here}.")
        self.maybe(0.7, *morals)

    # -------------------------------------------------------------------------------------------- plots
    def lost(self):
        self.opening()
        self.add("{h} [have] {t.a} and [love] to {use} it every day.", "The thing {h} [love] most [be] {t.a}. {h.He} [can] {use} it for hours.",
                 "For {h.his} birthday {h} [have] got {t.a} from {h.his} <mother|father|aunt|uncle>.")
        self.add("But one day {t} [be] gone.", "Then, after a long walk, {h.he} [can] not find {t}.", "One morning {h} [look] for {t}, but it [be] not there.",
                 "When {h.he} [come] back from {place3}, {t} [be] missing.")
        self.add("{h} [be] very {sad}. {h.He} [look] under the bed and behind the door, but [find] nothing.", "\"Where is my {t.noun}?\" [cry] {h}, and tears [run+] down {h.his} face.",
                 "{h.He} [search] the whole house, and then {h.he} [begin] to cry.", "{h} [feel] {sad}, because {t} [be] {h.his} only one.")
        wrong = self.rng.random() < 0.6
        if wrong:
            self.add("First {h.he} [go] to {place2}. It [be] not there.", "{h.He} [run] to {place2}, but there [be] only <dust|a beetle|an old shoe|a lazy snail>.",
                     "\"Did you leave it {at2}?\" [ask] {f}. They [look+] {at2}, but {t} [be] not there.")
        self.add("Then {h.he} [meet] {e.the}. \"Have you seen {t.a}?\" [ask] {h}.", "On the way {h.he} [see] {e.the}. \"I have lost my {t.noun},\" {h} [say]. \"It is {t.adj}. Have you seen it?\"",
                 "{h} [ask] {e.the} for help. \"What does your {t.noun} look like?\" [ask] {e.the}. \"It is {t.adj},\" [answer] {h}.")
        self.add("\"Yes,\" [say] {e.the}. \"I saw {t.a} {at} this morning.\"", "{e.the} [nod]. \"Look {at},\" {e.he} [say].",
                 "\"The wind carried it away,\" [say] {e.the}. \"You will find it {at}.\"", "\"Think,\" [say] {e.the}. \"Where did you sit yesterday?\" {h} [think] hard. \"{at}!\" {h.he} [shout].")
        self.weather_note()
        self.add("{h} [run] to {place} as fast as {h.he} [can]. There, {at}, [lie] {t.full}.", "So {h} [hurry] to {place}, and {at} {h.he} [find] {t.full}.",
                 "{h.He} [thank] {e.him} and [go] to {place}. {t.the} [be] {at}, <wet|dirty|cold> but safe.", "And really, {at} {h.he} [see] something {t.adj}. It [be] {t}!")
        self.add("{h} [be] so {happy} that {h.he} [dance] all the way home.", "{h.He} [hold] {t} tight and [laugh].", "\"I will never lose you again,\" {h} [say] to {t}.",
                 "Then {h} [go] back to {e.the} and [let] {e.him} {use} {t}, too.", "That evening {h} [use] a piece of string to tie {t} to {h.his} bag.")
        self.ending("From that day on, {h} always [put] {t} in the same place.", "{h} [have] learned to take care of {h.his} things.", "If you ask for help, you often find what you need.")

    def quest(self):
        a, v, at, problem, tool, use, sense = self.rng.choice(QUESTS)
        plural, heals = v.endswith("+"), a.split()[-1] in ("flower", "water", "leaves", "land")
        self.slots.update(prize=self.render(a).replace("An ", "an ").replace("A ", "a ").replace("The ", "the "), pv="[%s]" % v, pat=at, problem=problem, tool=tool,
                          usetool=use, them="them" if plural else "it")
        self.slots["thetool"] = "the " + tool.split(" ", 1)[1]
        self.opening()
        self.add("{e.the} [tell] {h} a secret. \"{prize} {now} {pat},\" {e.he} [say].".replace("{now}", {"grow+": "grow", "grow": "grows", "stand": "stands", "lie": "lies", "flow": "flows"}[v]),
                 "{h} [have] heard that {prize} {pv} {pat}.", "Everyone {here} [know] that {prize} {pv} {pat}, but nobody [have] ever come back with {them}.")
        self.add("{h} [want] to find {them} more than anything.", "\"I must see {them},\" [say] {h}, and {h.he} [pack] some bread and an apple.", 
                 *(["{h.his} friend {g} [be] ill, and {h} [think] that this [can] help {g.him}."] * 3 if heals else []))
        ill = " ill, " in self.out[-1]
        self.add("{h.He} [walk] past {place} and {place2} until {h.he} [come] to the right spot.", "The way [be] long. {h.He} [cross] {open} and [rest] {at}.", "{h.He} [set] out before breakfast and [follow] the path behind {place}.")
        self.weather_note()
        self.add("But {problem}.", "There {h.he} [stop], because {problem}.", "{h} [look] at it and [sigh], for {problem}.")
        self.maybe(0.5, "{h.He} [try] once, and {h.he} [try] twice, but it [be] no use.", "\"What shall I do now?\" {h.he} [ask].", "{h} [sit] down and [think].")
        self.add("Just then {f.intro} [come] along with {tool}. \"Do you need this?\" {f.he} [ask].", "{h.He} [go] back and [ask] {f.intro} for help. \"Take {tool},\" [say] {f}. \"But bring it back.\"",
                 "Then {h} [remember] that {f.intro} [have] {tool}. \"May I borrow it?\" [ask] {h}. \"Of course,\" [say] {f}.", "{f.intro} [have] {tool}, but {f.he} [want] something for it. So {h} [give] {f.him} {food}.")
        self.add("{h} [take] {thetool}. {h.He} {usetool}.", "With a beating heart {h.he} {usetool}.", "Now it [be] easy. {h} {usetool}.")
        self.add("And there {h.he} [find] {prize}.", "At last {h} [see] {prize}!", "In front of {h.him} [be] {prize}." if not plural else "In front of {h.him} [be+] {prize}.")
        self.add("{h} [take] a little for {f} and a little for {e.the}." if plural or v == "flow" else "{h} [look] at {them} for a long time and [feel] {happy}.",
                 "\"It is even better than I thought,\" {h.he} [whisper]." if not plural else "\"They are even better than I thought,\" {h.he} [whisper].",
                 "{h.He} [bring] {thetool} back to {f} and [thank] {f.him}.", "{f} [clap] and [shout], \"You did it, {h}!\"")
        if ill:
            self.add("{h} [run] to {g} and [give] {g.him} some, and soon {g} [be] well again.", "\"This will help you,\" {h} [say] to {g}. And the next day {g} [be] well.")
        self.ending("Nobody [call] {h} small after that.", "With the right tool and a good friend, every problem becomes smaller.", "{h} [know] that {h.he} [can] not have done it without {f}.")

    def fear(self):
        self.slots.update(zip(("fear", "event", "comfort", "proof"), self.rng.choice(FEARS)))
        self.opening(friend=True)
        self.add("{h} [be] not afraid of <wolves|spiders|storms at sea|cold water>, but {h.he} [be] afraid of {fear}.", "There [be] one thing that {h} [fear]: {fear}.", "Nobody [know] that {h} [be] afraid of {fear}.")
        self.add("One {time}, {event}.", "Then, while {h} and {f} [play+] near {place}, {event}.", "{h} [be] on the way to {place} when {event}.")
        self.add("{h} [shake] from head to foot and [hide] {at}.", "{h.his} heart [beat] fast, and {h.he} [can] not move.", "{h} [close] {h.his} eyes and [hold] {f.his} hand." if self.slots["f"].kind in ("boy", "girl") and self.slots["h"].kind in ("boy", "girl") else "{h} [close] {h.his} eyes and [begin] to cry.")
        self.maybe(0.5, "{g.intro} [laugh]. \"{h} is a coward!\" {g.he} [shout].", "\"What is the matter?\" [ask] {f}. \"I am afraid of {fear},\" [whisper] {h}.")
        self.add("But {f} [do] not laugh. \"Listen,\" {f.he} [say]. \"{comfort}.\"", "{f} [sit] down beside {h.him}. \"Do you know that {comfort}?\" {f.he} [ask].", "Then {e.the} [speak] in a soft voice. \"{comfort},\" {e.he} [say]. \"I was afraid, too, when I was young.\"")
        self.add("{h} [take] a deep breath.", "{h} [think] about it for a while.", "\"Are you sure?\" [ask] {h}. \"Quite sure,\" [be] the answer.", "Slowly {h} [open] one eye and then the other.")
        self.add("Then {h.he} {proof}.", "The next day {h} {proof}.", "And because {f} [be] near, {h} {proof}.", "First {h.he} [take] one small step. Then {h.he} {proof}.")
        self.add("\"I did it!\" [cry] {h}.", "{f} [be] proud of {h.him}.", "\"You are the bravest {h.kind} I know,\" [say] {f}.", "After that, {fear} [do] not seem so bad.")
        self.ending("To be brave is to be afraid and to go on.", "{h} [be] still a little afraid, but {h.he} [do] not hide any more.", "Even {g.intro} [say] that {h} [be] brave.")

    def gift(self):
        self.opening(friend=True)
        self.slots.update(coins=self.rng.choice("two three four five six seven".split()), job=self.rng.choice(["sweep the yard", "carry water from the well", "wash the windows", "pick apples", "feed the hens", "chop wood", "paint the fence"]))
        self.add("Tomorrow [be] the birthday of {f}, and {h} [have] no present.", "{f} [have] a birthday on {day}. {h} [want] to give {f.him} something special.", "\"What do you want for your birthday?\" {h} [ask] {f}. \"I would love {t.a},\" [say] {f}.")
        make = self.rng.random() < 0.4
        if make:
            self.add("{h} [have] no money, so {h.he} [decide] to make {t.a} with {h.his} own hands.", "\"I can make {t.a},\" [think] {h}, and {h.he} [get] to work.")
            self.add("{h.He} [cut] and [glue] and [paint] until midnight.", "It [be] hard work. Twice it [break], and twice {h.he} [begin] again.", "{h.He} [work] {at}, where nobody [can] see {h.him}.")
            self.maybe(0.6, "{e.the} [lend] {h.him} a pair of scissors.", "\"It looks a bit crooked,\" [say] {e.the}, \"but that is the best kind.\"")
        else:
            self.add("At the shop near {place} {h.he} [see] {t.a}. It [cost] {coins} coins, but {h} [have] only one.", "{e.the} [have] {t.a} for sale. \"{coins} coins,\" {e.he} [say]. But {h.his} pocket [be] empty.")
            self.add("\"If you {job} for me, I will pay you,\" [say] {e.the}. So {h} [have] to {job} all day.", "So {h} [go] to {e.the}. \"May I {job} for you?\" {h.he} [ask]. \"Gladly,\" [say] {e.the}.", "{h} [begin] to {job} for {e.the}, and {h.he} [do] not stop until the evening.")
            self.weather_note()
            self.add("In the evening {h.he} [have] {coins} coins and [buy] {t}.", "{e.the} [give] {h.him} {coins} shiny coins, and {h} [run] to buy {t.full}.", "{h.He} [count] the coins. There [be+] {coins}! Now {t} [be] {h.his}.")
        self.add("{h.He} [wrap] {t} in {wrap} paper.".replace("{wrap}", "<blue|brown|golden|red>"), "{h.He} [hide] {t} {at2}.", "{h.He} [tie] a ribbon around {t}.")
        self.add("On the birthday {f} [open] the present. \"{t.a}!\" {f.he} [cry]. \"How did you know?\"", "When {f} [see] {t.full}, {f.his} eyes [shine+].", "\"Is this really for me?\" [ask] {f}, and {f.he} [hug] {h}.")
        self.add("They [{use}+] {t} together until the evening.", "All the guests [eat+] {food} and [sing+] a song.", "{f} [want] to {use} it at once, and {h} [laugh].", "\"It is the best present of all,\" [say] {f}.")
        self.ending("A gift is worth the love that is in it.", "{h} [be] tired, but {h.he} [have] never been so {happy}.", "{f} [keep] {t} for many years.")

    def broken(self):
        noun = self.slots["t"].noun
        _, _, how, fix = THINGS[noun]
        self.slots.update(broke=how, broken=PARTICIPLE[how], fix=fix, rel="<cousin|%s>" % ("sister" if self.slots["f"].he == "she" else "brother"))
        self.opening()
        self.add("One day {h} [borrow] {t.a} from {f.intro}.", "{e.the} [own] {t.a} that nobody [be] allowed to touch.", "{h.his} {rel} {f} [have] {t.a}, and {f.he} [be] very proud of it.")
        owner = "e" if "nobody" in self.out[-1] else "f"
        self.slots["o"] = self.slots[owner]
        self.add("{h} [want] to {use} it just once.", "When nobody [be] looking, {h} [take] {t} outside.", "\"Be careful with it,\" [say] {o}. \"I will,\" [promise] {h}.")
        self.add("But {h.he} [slip] near {place}, and {t} [{broke}].", "Suddenly {h.he} [trip] over a <root|stone|step>, and with an ugly sound {t} [{broke}].", "{h.He} [be] too wild. {t.the} [fall], and it [{broke}].")
        self.add("{h} [stare] at it. \"Oh no,\" {h.he} [whisper].", "{h} [feel] hot and cold at once.", "{h.his} face [turn] red.")
        lie = self.rng.random() < 0.5
        if lie:
            self.add("{h.He} [hide] {t} {at2} and [say] nothing.", "{h.He} [push] {t} into a corner {at2}. When {o} [ask] about it, {h} [say], \"I have not seen it.\"")
            self.add("But {h.he} [can] not eat, and at night {h.he} [can] not sleep.", "All day long {h} [think] about the {broken} {t.noun}.", "Then {o} [begin] to look for it everywhere, and {h} [feel] {sad}.")
            self.maybe(0.6, "\"The truth is heavy only until you say it,\" [say] {g.intro}.", "{g.intro} [see] that something [be] wrong. \"You should tell the truth,\" {g.he} [say].")
        self.add("At last {h} [go] to {o}. \"I broke your {t.noun},\" {h.he} [say]. \"I am very sorry.\"", "So {h} [take] the {broken} {t.noun} to {o} and [tell] {o.him} everything.", "\"It is {broken}, and it is my fault,\" {h} [say] to {o}.")
        self.add("{o} [be] {sad} for a moment, but then {o.he} [smile]. \"Thank you for telling me,\" {o.he} [say].", "\"I am angry,\" [say] {o}, \"but I am glad that you are honest.\"", "{o} [look] at {t} and then at {h}. \"We can mend it,\" {o.he} [say].")
        self.add("Together they [mend+] {t} with {fix}.", "They [find+] {fix}, and after an hour {t} [be] whole again.", "{h} [get] {fix} and [work] until {t} [be] as good as new.")
        self.add("Then {o} [let] {h} {use} it again.", "One [can] still see the mark, but {o} [say] that it [make] {t} more beautiful.", "\"Next time, just ask me,\" [say] {o}.")
        self.ending("It is better to tell the truth at once.", "{h} [feel] light as a feather.", "Since that day, {h} and {o} [have+] no secrets.")

    def rescue(self):
        self.slots.update(zip(("trap", "tool", "save"), self.rng.choice(TRAPS)))
        self.slots["thetool"] = "the " + self.slots["tool"].split(" ", 1)[1]
        self.opening()
        self.add("On the way to {place} {h.he} [hear] a cry. \"Help! Help!\"", "{h} [be] walking near {place} when someone [call] for help.", "Suddenly a thin voice [come] from {place}. \"Is anybody there?\"")
        self.add("It [be] {f}, a {f.trait} {f.kind}, who [be] stuck {trap}.", "There {h.he} [see] a {f.kind} named {f}. {f.He} [be] stuck {trap} and [can] not get away.", "A {size} {f.kind} [be] stuck {trap}. {f.his} name [be] {f}.")
        self.maybe(0.6, "\"How did this happen?\" [ask] {h}. \"I was chasing a <butterfly|leaf|ball|feather>,\" [say] {f}.", "\"How long have you been here?\" [ask] {h}. \"Since {day},\" [answer] {f}.", "\"Please do not leave me,\" [beg] {f}.")
        self.maybe(0.4, "{g.intro} [come] past. \"I have no time,\" {g.he} [say], and {g.he} [walk] on.", "{h} [ask] {g.intro}, but {g.he} only [shake] {g.his} head.")
        self.weather_note()
        self.add("{h} [think] quickly. {h.He} [run] home and [bring] {tool}.", "\"Wait here,\" [say] {h}. {h.He} [get] {tool} from {e.the}.", "Luckily there [be] {tool} {at2}, and {h} [fetch] it.")
        self.add("With {thetool} {h.he} {save}.", "{h} [use] {thetool} with all {h.his} strength. Slowly, very slowly, {h.he} {save}.", "First {thetool} [slip], but the second time {h} {save}.")
        self.add("\"You saved my life,\" [say] {f}. \"I will not forget it.\"", "{f} [be] {happy} and [thank] {h.him} again and again.", "\"One day I will help you, too,\" [promise] {f}. {h} only [smile].")
        if self.rng.random() < 0.6:
            self.add("A week later {h} [lose] {h.his} way {at2}.", "Not long after, {h} [fall] ill and [lie] in bed.", "In the next {season} {h} [have] nothing to eat.", "Some days later {h} [be] crossing {open} when a hungry wolf [jump] out.")
            last = self.out[-1]
            if "way" in last:
                self.add("It [be] {f} who [find] {h.him} and [lead] {h.him} home.", "Then {f} [appear] with a lamp. \"Follow me,\" {f.he} [say].")
            elif "ill" in last:
                self.add("Every day {f} [bring] {h.him} hot soup and [tell] {h.him} stories.", "{f} [stay] beside {h.him} until {h.he} [be] well again.")
            elif "eat" in last:
                self.add("Then {f} [knock] on the door and [bring] {food}.", "But {f} [share] {f.his} bread with {h.him}.")
            else:
                self.add("{f} [make] such a loud noise that the wolf [run] away.", "But {f} [throw] sand into its eyes, and the wolf [flee].")
        self.ending("One good deed brings another.", "Since then, {h} and {f} [be+] the best of friends.", "Nobody is too small to help.")

    def contest(self):
        self.slots.update(zip(("race", "er", "do", "boast"), self.rng.choice(RACES)))
        self.slots["prize"] = self.rng.choice(["a golden cup", "a silver medal", "a big cake", "a new hat", "a basket of apples"])
        self.opening()
        self.add("Every year in {season} there [be] {race} at {open}.", "On {day} there [be] {race} at {open}, and the winner [will] get {prize}.", "{e.the} [hang] up a sign: {race} at {open}! The prize [be] {prize}.")
        self.add("{f.intro} [laugh] at {h}. \"I can {boast}. You will never win,\" {f.he} [say].", "\"I am the best {er} of all,\" [say] {f.intro}. \"Who wants to lose against me?\"", "{f}, a {f.kind}, [be] very proud. \"I can {boast},\" {f.he} [tell] everyone.")
        self.add("{h} [do] not answer, but {h.he} [practise] every {time}.", "\"I will try,\" [say] {h} quietly.", "{h} [know] that {h.he} [be] not the best, but {h.he} [want] to take part.", "\"It is not over before the end,\" [say] {h}.")
        self.add("The big day [come], and {w1}.", "When the bell [ring], the contest [begin].", "All the animals and people {here} [come+] to watch.")
        turn = self.rng.randrange(4)
        if turn == 0:
            self.add("{f} [be] so sure that {f.he} [lie] down {at} and [fall] asleep.", "{f} [stop] {at} to look at {f.self} in a puddle and [forget] the time.")
            self.add("{h} [go] on and on, step by step, and [win] {prize}.", "When {f} [wake] up, {h} [have] already won.")
            self.add("\"How is that possible?\" [ask] {f}. \"You were asleep, and I was not,\" [answer] {h}.", "{f} [be] ashamed and never [boast] again.")
        elif turn == 1:
            self.add("In the middle of the contest {f} [hurt] {f.his} foot and [cry] out.", "Suddenly {f} [fall] and [can] not get up.")
            self.add("{h} [can] win now, but {h.he} [turn] around and [help] {f.him}.", "{h} [stop] at once. \"Lean on me,\" {h.he} [say].")
            self.add("They [come+] last, but {e.the} [give] both of them {prize}.", "{g.intro} [win] {prize}, but everyone [cheer+] for {h}.")
            self.add("\"Why did you stop?\" [ask] {f}. \"A friend is more than a prize,\" [say] {h}.", "\"I was wrong about you,\" [say] {f}.")
        elif turn == 2:
            self.add("{h} [do] {h.his} very best, but {f} [be] better and [win].", "In the end {f} [win], and {h} [be] only <second|third|fourth>.")
            self.add("{h} [be] {sad}, but {h.he} [shake] the hand of the winner." if self.slots["f"].kind in ("boy", "girl") else "{h} [be] {sad}, but {h.he} [smile] at the winner.", "\"Well done, {f},\" [say] {h}.")
            self.add("{f} [get] {prize}. \"Let us share it,\" {f.he} [say]. \"It is no fun alone.\"", "\"Will you teach me?\" [ask] {h}. \"With pleasure,\" [say] {f}.")
        else:
            self.add("{f} [cheat]. {f.He} [take] a short way past {place}, but {e.the} [see] it.", "In secret {f} [put] salt and sand into the things of {h}. But {g.intro} [notice] it.")
            self.add("\"A cheat cannot win,\" [say] {e.the}, and {h} [get] {prize}.", "{f} [have] to leave, and {prize} [go] to {h}.")
            self.add("{f} [hang] {f.his} head. \"I am sorry,\" {f.he} [say].", "{h} [give] {f} another chance, and next year they [do+] it fairly.")
        self.ending("Pride goes first and falls first.", "{h} [remember] that day for a long time.", "It is not important to be first, but to be fair.")

    def garden(self):
        self.slots.update(zip(("plant", "dish"), self.rng.choice(SEEDS)))
        self.opening()
        self.add("{e.the} [give] {h} a {plant} seed. \"Be patient with it,\" {e.he} [say].", "One day {h} [find] a {plant} seed {at}.", "{h} [buy] a {plant} seed for one coin.")
        self.add("{h} [dig] a hole near {place} and [put] the seed into the earth.", "{h.He} [plant] it next to {place} and [give] it water.")
        self.add("The next morning {h.he} [look], but there [be] nothing.", "{h} [wait] one day, two days, three days. Nothing [happen].", "\"Why does it not grow?\" [ask] {h}. \"Wait,\" [say] {e.the}.")
        self.maybe(0.6, "{f.intro} [laugh]. \"You are wasting your time,\" {f.he} [say].", "\"Perhaps you should sing to it,\" [say] {f.intro}. So {h} [sing] every evening.", "{h} [want] to dig it out again, but {e.the} [stop] {h.him}.")
        self.add("Then the rain [come], and after the rain the sun. A <small|thin|tiny> green leaf [appear].", "After two weeks a green leaf [look] out of the earth.", "One {time} there [be] a tiny green leaf, and {h} [jump] for joy.")
        self.add("A hungry <snail|slug|beetle|crow> [come] to eat the leaf, but {h} [carry] it away to {place2}." , "When a storm [come], {h} [cover] the plant with {h.his} <coat|hat|blanket>.", "{h} [build] a little fence around it.", "Every day {h} [bring] water from {place2}.")
        self.add("The {plant} [grow] and [grow] until it [be] bigger than {h}.", "By the end of the summer the {plant} [be] the biggest {here}.", "It [become] the finest {plant} that anyone [have] ever seen.")
        self.add("{h} [make] {dish} from it and [invite] {f} and {e.the}.", "{h.He} [cook] {dish}, and there [be] enough for everyone.", "{f.intro} [come] to help, and they [make+] {dish} together.")
        self.maybe(0.7, "\"How did you do it?\" [ask] {f}. \"With water, sun and time,\" [say] {h}.", "\"I am sorry that I laughed,\" [say] {f}. {h} [give] {f.him} the biggest piece." if "laugh" in " ".join(self.out) else "\"It tastes of summer,\" [say] {e.the}.", "{h} [keep] one seed for the next year.")
        self.ending("Good things need time.", "{h} [have] learned to wait.", "Next {season} {h} [will] plant ten.")

    def mystery(self):
        self.slots.update(zip(("noise", "cause", "x", "fixit"), self.rng.choice(NOISES)))
        self.opening(friend=self.rng.random() < 0.5)
        self.add("In the middle of the night {h} [wake] up. {h.He} [hear] {noise}.", "When {h} [be] almost asleep, {h.he} [hear] {noise}.", "Three nights in a row {h} [hear] {noise} outside.")
        self.add("\"What is that?\" {h.he} [whisper].", "\"Who is there?\" [call] {h}. Nobody [answer].", "{h} [pull] the blanket over {h.his} head.", "Was it a <thief|ghost|monster|witch>?" if self.tense == "past" else "Is it a <thief|ghost|monster|witch>?")
        self.weather_note()
        self.add("{h} [run] to {f.intro}. \"I hear it, too,\" [say] {f}. \"Let us look together.\"", "{h} [wake] {f.intro}. \"It is surely a monster,\" [say] {f}. \"Monsters do not exist,\" [say] {h}, but {h.he} [be] not sure.", "The next day {h} [tell] {f.intro} about it, and that night both of them [wait+] {at}.")
        self.add("{h} [take] a candle, and {f} [take] a <stick|broom|spoon|pan>.", "On quiet feet they [go+] past {place2}.", "They [creep+] to the door. {f} [hold] {f.his} breath.", "Step by step they [come+] closer.")
        self.maybe(0.5, "Again they [hear+] {noise}.", "\"Are you afraid?\" [ask] {f}. \"Only a little,\" [say] {h}.", "A shadow [move] {at2}. It [be] only their own.")
        self.add("Then they [see+] it. It [be] {cause}!", "{h} [lift] the candle, and there [be] {cause}.", "And what [do+] they find? {cause}!", "But there [be] no monster. There [be] only {cause}.")
        self.add("Both of them [laugh+] until they [cry+].", "{f} [begin] to laugh. \"So that is our monster,\" {f.he} [say].", "{h} [let] out a long breath.")
        self.add("{h} {fixit}.", "Then {h} {fixit}, and {f} [help] {h.him}.", "So {h} {fixit} and [go] back to bed.")
        self.maybe(0.5, "After that the night [be] still.", "From then on {h} [sleep] well.")
        self.ending("Most monsters are small when you hold a light to them.", "Since that night {h} [be] not afraid of noises.", "{f} [tell] the story at every party.")

    def trade(self):
        nouns = self.rng.sample([n for n in THINGS if n != self.slots["t"].noun], 2)
        self.slots.update(zip("ab", (Thing(n, self.rng.choice(THINGS[n][0])) for n in nouns)))
        self.opening()
        self.add("{h} [want] {t.a}, but {h.he} [have] only {a.a}.", "{h} [have] {a.a}, but {h.he} [dream] of {t.a}.", "\"I wish I had {t.a},\" [say] {h}. All {h.he} [own] [be] {a.a}.")
        self.add("{at} {h.he} [meet] {f.intro}, who [have] {b.a}.", "Near {place} {h.he} [see] a {f.trait} {f.kind}. It [be] {f}, and {f.he} [carry] {b.a}.")
        self.add("\"Will you give me {b} for my {a.noun}?\" [ask] {h}. \"Yes,\" [say] {f}, \"I have always wanted {a.a}.\"", "\"What a fine {a.noun}!\" [say] {f}. \"I will give you {b} for it.\" {h} [agree].", "{f} [look] at {a} and [smile]. They [swap+], and {h} [go] on with {b.full}.")
        self.maybe(0.4, "{h} [carry] {b} past {place2}.", "\"Now I have {b.a},\" [think] {h}, \"but I still want {t.a}.\"", "{h} [try] to {ub} {b}, but {h.he} [do] not like it.".replace("{ub}", THINGS[nouns[1]][1]))
        self.weather_note()
        self.add("A little later {e.the} [call] {h.him}. \"I need {b.a},\" {e.he} [say]. \"What do you want for it?\"", "In front of {place3} [sit] {e.the} with {t.a}. \"I am too old to {use} it,\" {e.he} [say]. \"But {b.a} would be useful.\"")
        self.add("\"Do you have {t.a}?\" [ask] {h}. {e.the} [bring] {t.full}, and {h} [give] {e.him} {b}.", "{h} [hold] out {b}, and {e.the} [give] {h.him} {t.full}.", "So they [swap+], and at last {h} [have] {t.full}.")
        turn = self.rng.random()
        if turn < 0.35:
            self.add("But when {h.he} [be] home again, {h.he} [miss] {h.his} old {a.noun}.", "{h} [{use}] {t} once or twice. Then {h.he} [think] of {a.full}.")
            self.add("\"Sometimes you know the worth of a thing only when it is gone,\" [say] {e.the}.", "{f} [see] {h.his} face and [bring] {a} back. \"We can share,\" {f.he} [say].")
        else:
            self.add("{h} [{use}] {t} all the way home.", "Everyone [be] {happy}: {f} with {a}, {e.the} with {b}, and {h} with {t}.", "{h.He} [be] so {happy} that {h.he} [sing].")
        self.ending("What one does not need, another may love.", "A good trade makes both sides glad.", "{h} [will] always remember {a.full}.")

    def sharing(self):
        self.opening()
        self.add("{h} [have] {food}, fresh from the <oven|market|kitchen>.", "{e.the} [give] {h} {food}.", "One day {h} [get] {food} from {h.his} grandmother.")
        self.add("{f.intro} [come] by. \"I am so hungry,\" {f.he} [say]. \"May I have some?\"", "\"That smells good,\" [say] {f.intro}. \"Can we share?\"", "{f}, a {f.trait} {f.kind}, [look] at {thefood} with big eyes.")
        if self.rng.random() < 0.55:
            self.add("\"No,\" [say] {h}. \"It is all mine.\" And {h.he} [run] away to {place}.", "{h} [hide] {thefood} behind {h.his} back. \"There is nothing here,\" {h.he} [say].")
            self.add("{h} [sit] down {at} and [eat] everything alone.", "{at} {h.he} [eat] and [eat] until nothing [be] left.")
            self.add("Soon {h.his} belly [hurt], and {h.he} [feel] lonely.", "But it [do] not taste as good as {h.he} [have] hoped.", "Then {h.he} [hear] the others laugh at {open}, and nobody [call] {h.him}.")
            self.add("The next day {h.he} [have] no food, and {f} [have] a whole <loaf of bread|pot of soup|bag of apples>. \"Take half,\" [say] {f}.", "{h} [go] to {f}. \"I was wrong,\" {h.he} [say]. \"Can you forgive me?\" \"Of course,\" [say] {f}.")
            self.add("{h} [be] ashamed. \"Why are you so kind to me?\" {h.he} [ask]. \"Because you are my friend,\" [say] {f}.", "From then on {h} [cut] everything in two.", "This time they [eat+] together, and it [taste] wonderful.")
        else:
            self.add("{h} [be] hungry, too, but {h.he} [cut] {thefood} in two.", "\"Take the bigger half,\" [say] {h}.", "{h} [think] for a moment. Then {h.he} [give] {f.him} a large piece.")
            self.add("Then {g.intro} [come], and after {g.him} {e.the}. {h} [share] again and again.", "Soon {g.intro} [smell] it, too, and [ask] for a bite.", "While they [eat+], {g.intro} [tell] them a funny story.")
            self.add("In the end only a crumb [be] left for {h}.", "Now {h} [have] almost nothing, but {h.he} [be] {happy}.", "\"You have given everything away,\" [say] {e.the}.")
            self.add("But {f} [come] back with <milk|nuts|berries>, and {g} [bring] <apples|cheese|fish>. It [become] a feast.", "The next morning there [be] {t.a} in front of the door. It [be] a present from {f}.", "\"We will never forget it,\" [say+] {f} and {g}.")
        self.ending("Shared bread tastes twice as good.", "Who gives will also receive.", "{h} never [eat] alone again.")

    def skill(self):
        self.slots.update(zip(("skill", "fail", "advice", "ing"), self.rng.choice(SKILLS)))
        self.opening()
        self.add("{h} [want] to learn to {skill}.", "{h.his} greatest wish [be] to {skill} like {e.the}.", "Everyone {here} [can] {skill}, but {h} [can] not.")
        self.maybe(0.5, "\"It is easy,\" [say] {f.intro}.", "{f.intro} [shake] {f.his} head. \"You will never learn it,\" {f.he} [say].")
        self.add("The first time, {h} {fail}.", "{h.He} [go] to {open} and [try]. But {h.he} {fail}.", "On {day} {h} [try] for the first time and {fail}.")
        self.add("The second time [be] no better.", "{f.intro} [laugh] out loud.", "\"I give up,\" [say] {h} and [kick] a stone.", "{h} [be] {sad} and [walk] home slowly.")
        self.add("{e.the} [have] watched {h.him}. \"You must {advice},\" {e.he} [say].", "\"May I tell you a secret?\" [ask] {e.the}. \"{advice}.\"", "Then {h} [ask] {e.the}. \"How do you do it?\" \"{advice},\" [be] the answer.")
        self.weather_note()
        self.add("{h} [try] it again, and this time it [go] a little better.", "{h} [think] of these words every day.", "\"Like this?\" [ask] {h}. \"Yes, just like this,\" [say] {e.the}.", "So {h} [practise] every {time} at {open}, even when {w1}.")
        self.add("After a week {h.he} [can] {skill}!", "One {time} it [happen]: {h} [can] {skill}.", "And when {season} [be] over, {h} [can] {skill} better than {f}.")
        self.add("\"Look, I am {ing}!\" {h.he} [shout].", "{f} [stare]. \"Can you teach me, too?\" {f.he} [ask].", "{e.the} [clap] and [say], \"I knew it.\"", "{h} [spend] the whole day {ing}.")
        self.ending("Nobody is born a master.", "If you fall, get up and try again.", "Now {h} [teach] the {size} ones {here}.")

    def astray(self):
        self.slots.update(sign=self.rng.choice(["the north star", "the sound of the river", "the smell of fresh bread", "the smoke of a chimney", "the light of a window", "the ringing of a bell", "{h.his} own footprints", "a line of white stones"]))
        self.opening(friend=True)
        self.add("{h} and {f} [go+] to {place} to pick <berries|mushrooms|flowers|herbs>.", "They [want+] to visit {e.the} near {place}.", "One day they [follow+] a <butterfly|deer|rabbit|white bird> past {place}, farther and farther.")
        self.add("They [talk+] and [sing+], and so they [do+] not see that it [become] dark.", "On the way back {w2}, and soon they [can+] not see the path.", "After an hour {f} [stop]. \"Where are we?\" {f.he} [ask].")
        self.add("\"I think we are lost,\" [say] {h}.", "{h} [look] to the left and to the right. Everything [look] the same.", "\"Was it this way or that way?\" [ask] {h}. {f} [do] not know.")
        self.add("{f} [begin] to cry.", "They [be+] cold and hungry, and {f} [be] afraid.", "\"What if nobody finds us?\" [whisper] {f}.", "First they [go+] left, but there [be] only a swamp.")
        self.maybe(0.6, "\"Do not worry,\" [say] {h} and [give] {f.him} {h.his} <coat|scarf|last apple>.", "\"We must stay together,\" [say] {h}.", "They [rest+] {at2} and [share+] {food}.")
        self.add("Then {h} [remember] the words of {e.the}: \"If you are lost, follow {sign2}.\"".replace("{sign2}", "your own footprints" if "own" in self.slots["sign"] else "{sign}"), "Suddenly {f} [notice] something. It [be] {sign}!", "\"Be quiet for a moment,\" [say] {h}. And then they [find+] {sign}.")
        self.add("They [follow+] it over <a hill|a bridge|a field> and through <tall grass|bushes|a gate>.", "Step by step they [follow+] it.", "Hand in hand they [go+] on and on." if self.slots["f"].kind in ("boy", "girl") and self.slots["h"].kind in ("boy", "girl") else "Side by side they [go+] on and on.")
        self.add("At last they [see+] the house of {h}.", "And there [stand] {e.the} with a lamp. \"I have looked for you everywhere!\" {e.he} [cry].", "When the moon [rise], they [be+] home.")
        self.add("There [be] hot <tea|soup|milk> for both of them.", "\"Next time we will mark the path,\" [say] {f}.", "{f} [hug] {h}. \"Without you I would still be there,\" {f.he} [say].")
        self.ending("A calm head finds the way.", "They never [go+] so far again without a map.", "The next day they [laugh+] about it.")

    def trick(self):
        self.slots.update(lie=self.rng.choice(["there is a pot of gold {at}", "the king is coming to {open}", "a wolf is coming", "the moon has fallen into the water", "it will rain frogs tonight"]))
        self.opening()
        self.add("{f.intro} [love] to play tricks on everyone.", "In the same place [live] {f}, a {f.kind} who often [tell] lies.", "But {f}, a clever {f.kind}, [be] bored.")
        self.add("\"Have you heard?\" {f.he} [say] to {h}. \"{lie}!\"", "One {time} {f} [run] to {h} and [shout], \"{lie}!\"", "{f} [whisper] into the ear of {h}: \"{lie}.\"")
        believe = self.rng.random() < 0.6
        if believe:
            self.add("{h} [believe] {f.him} and [leave] {food} on the table.", "{h} [drop] everything and [run] to see it.")
            self.add("When {h} [come] back, {thefood} [be] gone." if "food" in self.out[-1] or self.slots["food"] in self.out[-1] else "{h} [wait] for hours, but nothing [happen].", "It [be] not true. {f} [lie] in the grass and [laugh].")
            self.add("{h} [be] angry. \"That was not funny,\" {h.he} [say].", "\"You fooled me once,\" [say] {h}, \"but not twice.\"")
        else:
            self.add("But {h} [be] not stupid. \"Show me,\" {h.he} [say].", "\"Is that true?\" [ask] {h}. {f} [look] at the ground.")
            self.add("So {f} [have] to go with {h.him}, and of course there [be] nothing.", "Then {h} [have] an idea. \"I know,\" {h.he} [say], \"and {e.the} is waiting there for you with {food}.\"")
        self.add("The next week {f} really [need] help, because {f.he} [be] stuck {at2}. {f.He} [call] and [call].", "Then a fire [break] out in the house of {f}. \"Help!\" {f.he} [shout].", "Some days later {f} [fall] into the water near {place2} and [cry] for help.")
        self.add("But nobody [believe] {f.him}. \"It is just another trick,\" [say] {g.intro}.", "{g.intro} [hear] it and only [laugh]. \"Another lie,\" {g.he} [say].", "People [hear+] it, but they [think+] it [be] a lie.")
        self.add("Only {h} [go] to look, and {h.he} [help] {f.him}.", "In the end {h} [come]. \"I nearly stayed at home,\" {h.he} [say].", "Luckily {h} [be] near and [save] {f.him}.")
        self.add("\"I will never lie again,\" [promise] {f}.", "{f} [be] wet with tears. \"Why did nobody come?\" {f.he} [ask]. \"Because you lied so often,\" [say] {h}.", "\"Thank you,\" [say] {f}. \"I did not deserve it.\"")
        self.ending("Nobody believes a liar, even when he tells the truth.", "From that day on, {f} [tell] the truth.", "{h} and {f} [become+] friends after all.")

    def sickday(self):
        self.slots.update(med=self.rng.choice(["honey", "mint leaves", "lemon", "red berries", "dry roots", "fresh snow"]))
        self.opening(friend=True)
        self.add("One {time} {f} [do] not come to {open}.", "On {day} {h} [wait] for {f}, but {f.he} [do] not come.", "{h} [knock] on the door of {f}, but {f} [be] in bed.")
        self.add("{f} [be] ill. {f.his} head [be] hot, and {f.his} voice [be] weak.", "\"I have a fever,\" [say] {f} in a weak voice.", "\"My throat hurts,\" [whisper] {f}. \"I cannot get up.\"")
        self.add("{h} [run] to {e.the}. \"What can I do?\" {h.he} [ask]. \"{f} needs tea with {med},\" [say] {e.the}.", "\"You need {med},\" [say] {e.the}. \"But I have none left. You can find some {at}.\"", "{e.the} [know] what to do. \"Bring me {med}, and I will make some tea,\" {e.he} [say].")
        self.add("So {h} [go] to {place}, although {w1}.", "{h} [take] a basket and [hurry] to {place}.", "Without a word {h} [put] on {h.his} coat and [go] to {place}.")
        self.weather_note(0.5)
        self.add("For a long time {h.he} [find] nothing. Then {h.he} [look] {at}, and there {h.he} [see] {med}!", "{g.intro} [guard] the place. \"What will you give me for {med}?\" {g.he} [ask]. {h} [give] {g.him} {h.his} {t.adj} {t.noun}.", "{at} {h.he} [discover] {med}, and {h.he} [fill] {h.his} pockets.")
        self.add("{e.the} [make] a pot of tea with {med}, and {f} [drink] three cups.", "Soon the tea [be] ready. It [smell] of {med}.", "{h} [stir] {med} into hot tea and [hold] the cup for {f}.")
        self.add("All night {h} [sit] next to the bed and [tell] stories.", "{f} [sleep] for a day and a night.", "\"It tastes terrible,\" [say] {f}, but {f.he} [empty] the cup.")
        self.add("In the morning the fever [be] gone.", "The next day {f} [be] hungry, and that [be] a good sign.", "On the third day {f} [get] up and [ask] for {food}.")
        self.maybe(0.6, "\"You are a good friend,\" [say] {f}.", "\"How can I thank you?\" [ask] {f}. \"Just come out and play,\" [say] {h}.", "{f} [give] {h} {t.a}." if "{t.noun}" not in self.out and self.slots["t"].noun not in " ".join(self.out) else "{f} [smile] at {h}.")
        self.ending("A friend is the best medicine.", "When {h} [become] ill in {season}, {f} [do] the same for {h.him}.", "And {h}? {h.He} [be] {happy} that {f} [be] well again.")


PLOTS = [Story.lost, Story.quest, Story.fear, Story.gift, Story.broken, Story.rescue, Story.contest, Story.garden,
         Story.mystery, Story.trade, Story.sharing, Story.skill, Story.astray, Story.trick, Story.sickday]


def stories(seed, count):
    """Yield `count` different stories of 60 to 180 words."""
    rng, seen = random.Random(seed), set()
    while len(seen) < count:
        story = Story(rng)
        rng.choice(PLOTS)(story)
        text = " ".join(story.out)
        if text not in seen and 60 <= len(text.split()) <= 180:
            seen.add(text)
            yield text


def main():
    ap = argparse.ArgumentParser(description="print short English stories from a seeded grammar")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--count", type=int, default=5)
    args = ap.parse_args()
    print("\n\n".join(stories(args.seed, args.count)))


if __name__ == "__main__":
    main()
