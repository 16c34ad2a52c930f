package com.example.edgeapp;

public final class R {
    public static final class id {
        public static final int invitation = 1;
        public static final int preview = 2;
        public static final int picture = 3;
        public static final int overlay = 4;
        public static final int status = 5;
        public static final int problem = 6;
        public static final int camera = 7;
        public static final int flip = 8;
        public static final int choose = 9;
        public static final int example = 10;
        public static final int settings = 11;
        public static final int least = 12;
        public static final int score = 13;
        public static final int tracking = 14;
        public static final int found = 15;
        public static final int speed = 16;
        public static final int selfcheck = 17;
        public static final int benchmark = 18;
        public static final int proof = 19;
        public static final int save = 20;
        public static final int look = 21;
        public static final int style = 22;
        public static final int describe = 23;
        public static final int question = 24;
        public static final int ask = 25;
        public static final int asked = 26;
        public static final int answer = 27;
        public static final int quiet = 28;
    }
    public static final class layout {
        public static final int main = 1;
        public static final int language = 2;
    }
    public static final class string {
        public static final int app_name = 1;
        public static final int invitation = 2;
        public static final int overlay = 3;
        public static final int start = 4;
        public static final int stop = 5;
        public static final int flip = 6;
        public static final int choose = 7;
        public static final int example = 8;
        public static final int score = 9;
        public static final int tracking = 10;
        public static final int selfcheck = 11;
        public static final int benchmark = 12;
        public static final int save = 13;
        public static final int footer = 14;
        public static final int look = 15;
        public static final int picture = 16;
        public static final int style = 17;
        public static final int describe = 18;
        public static final int question = 19;
        public static final int fitting = 20;
        public static final int ask = 21;
        public static final int compare = 22;
        public static final int quiet = 23;
        public static final int remembered = 24;
    }
}
